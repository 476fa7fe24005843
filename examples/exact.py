from verifiers import Problem, Verdict


def exact(problem: Problem, completion: str, *, ignore_case: bool = False) -> Verdict:
    answer = completion.strip().splitlines()[-1] if completion.strip() else ""
    if not answer:
        return Verdict.no_answer()
    same = answer.lower() == problem.answer.lower() if ignore_case else answer == problem.answer
    return Verdict.correct() if same else Verdict.incorrect(extracted=answer)
