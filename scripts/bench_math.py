"""Measure the math verifier against math-verify.

    python scripts/bench_math.py probes                 # precision, recall, lateness on the probes
    python scripts/bench_math.py throughput --gsm8k gsm8k_test.jsonl
    python scripts/bench_math.py threads                # 10,000 verdicts from 64 threads

Peers run in a process of their own that is killed after twice `--timeout` seconds, since some
inputs freeze it for good. Each part prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from verifiers import Problem, Status  # noqa: E402
from verifiers.mathematics import MathVerifier  # noqa: E402

PROBES = ROOT / "tests" / "data" / "math_probes.jsonl"
PEER_MEMORY_MB = 4_096
CHUNK = 250
GRACE_S = 0.5
"""Beyond the deadline, for killing a process on a busy machine, before a verdict counts as late."""
SETTLE_S = 5.0
"""For what worker processes import while nobody waits."""


class Case(NamedTuple):
    kind: str
    gold: str
    completion: str
    correct: bool


class Judgement(NamedTuple):
    correct: bool
    late: bool
    """Not there `GRACE_S` after the deadline."""
    seconds: float


def load_probes() -> list[Case]:
    with PROBES.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Case(row["kind"], row["problem"]["answer"], row["completion"], row["correct"])
        for row in rows
    ]


def problem(gold: str) -> Problem:
    return Problem(id="bench", prompt="", verifier="math", answer=gold)


# Peers


def peer_gold(gold: str) -> str:
    """Golds as these peers want them: formulas between dollars."""
    is_plain = re.fullmatch(r"-?[0-9.,]+", gold) or "####" in gold or "\\boxed" in gold
    return gold if is_plain else f"${gold}$"


def judge_defaults(gold: str, completion: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(peer_gold(gold)), parse(completion)))


def judge_like_trl(gold: str, completion: str) -> bool:
    """The configuration of TRL's `accuracy_reward` (trl/rewards/accuracy_rewards.py)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
    gold_parsed = parse(peer_gold(gold), parsing_timeout=10)
    answer = parse(
        completion, extraction_config=[config], extraction_mode="first_match", parsing_timeout=10
    )
    return bool(gold_parsed) and bool(verify(gold_parsed, answer, timeout_seconds=5))


PEERS: dict[str, Callable[[str, str], bool]] = {
    "math-verify, defaults": judge_defaults,
    "math-verify as in TRL": judge_like_trl,
}


def serve_peer(pipe: Connection, name: str) -> None:
    logging.disable(logging.CRITICAL)
    limit = PEER_MEMORY_MB << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    judge = PEERS[name]
    judge("1", "1")  # imports
    pipe.send("ready")
    while True:
        case = pipe.recv()
        try:
            pipe.send(judge(case.gold, case.completion))
        except Exception:  # a peer that raises gives no reward
            pipe.send(False)


def time_defaults(cases: list[Case], clock: Callable[[], float]) -> tuple[list[bool], float]:
    logging.disable(logging.CRITICAL)
    start = clock()
    verdicts = [judge_defaults(case.gold, case.completion) for case in cases]
    return verdicts, clock() - start


class Peer:
    """A peer in a process that can be killed."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name, self.timeout_s = name, timeout_s
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_peer, args=(theirs, self.name), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def judge(self, case: Case) -> Judgement:
        start = time.perf_counter()
        self.pipe.send(case)
        try:
            if self.pipe.poll(2 * self.timeout_s):
                correct, seconds = self.pipe.recv(), time.perf_counter() - start
                return Judgement(correct, seconds > self.timeout_s + GRACE_S, seconds)
        except EOFError:
            pass  # it died
        seconds = time.perf_counter() - start
        self.close()
        self._start()
        return Judgement(False, True, seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.join()


# Parts


def bench_probes(timeout_s: float) -> int:
    cases = load_probes()
    verifier = MathVerifier(timeout_s=timeout_s)
    statuses: Counter[str] = Counter()

    def ours(case: Case) -> Judgement:
        start = time.perf_counter()
        verdict = verifier.judge(problem(case.gold), case.completion)
        seconds = time.perf_counter() - start
        statuses[verdict.status.value] += 1
        return Judgement(verdict.status is Status.CORRECT, seconds > timeout_s + GRACE_S, seconds)

    verifier.judge(problem("\\sqrt{2}"), "\\boxed{2^{1/2}}")  # starts a worker
    print(f"{len(cases)} probes, {sum(case.correct for case in cases)} of them right\n")
    print("| checker | precision | recall | false positives | false negatives | late | slowest |")
    print("|---|---|---|---|---|---|---|")
    failures = report("rlvr `math`", cases, map(ours, cases))
    verifier.close_now()
    for name in PEERS:
        peer = Peer(name, timeout_s)
        report(name, cases, map(peer.judge, cases))
        peer.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nStatuses of ours: {dict(statuses)}; largest process {children:.0f} MB")
    return failures


def report(name: str, cases: list[Case], judgements: Iterable[Judgement]) -> int:
    results = list(judgements)
    pairs = list(zip(cases, results, strict=True))
    hits = sum(case.correct and result.correct for case, result in pairs)
    false_positives = sum(result.correct and not case.correct for case, result in pairs)
    misses = sum(case.correct and not result.correct for case, result in pairs)
    late = sum(result.late for result in results)
    slowest = max(result.seconds for result in results)
    precision, recall = hits / max(1, hits + false_positives), hits / max(1, hits + misses)
    print(
        f"| {name} | {precision:.3f} | {recall:.3f} | {false_positives} | {misses} | {late} | "
        f"{slowest:.1f} s |",
        flush=True,
    )
    return false_positives + misses


STYLES = (
    "{work}\nThe answer is {answer}.",
    "{work}\n#### {answer}",
    "{work}\n\nTherefore, the final answer is $\\boxed{{{answer}}}$.",
    "{work}\n\n**Answer:** {answer} {unit}",
    "{work}\nSo the answer is ${answer} per day.",
    "{work}\n\n\\[ \\boxed{{{answer} \\text{{ {unit}}}}} \\]",
    "{work}\nThus, there are {answer} {unit} left.",
    "{work}\n\nFinal Answer: The final answer is ${answer}$. I hope it is correct.",
    "{work}\n<answer>{answer}</answer>",
    "{work}\n\n### Final Answer\n\n{answer} {unit}",
    "{work}\nTotal: 3 + 4 = {answer} {unit}",
    "{work}\nHence \\(\\boxed{{{answer}}}\\) {unit} in total.",
)


def gsm8k_outputs(path: Path, num_cases: int) -> list[Case]:
    """Solutions of GSM8K in the dressings of many models, half of them with a wrong answer."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    generator = random.Random(0)
    cases: list[Case] = []
    for _ in range(num_cases):
        work, _, gold = generator.choice(rows)["answer"].partition("\n####")
        gold = gold.strip()
        value = int(gold.replace(",", ""))
        right = generator.random() < 0.5
        answer = value if right else value + generator.choice([-10, -1, 1, 7, 100])
        text = generator.choice(STYLES).format(
            work=re.sub(r"<<[^>]*>>", "", work),
            answer=generator.choice([f"{answer}", f"{answer:,}", f"{answer}.00"]),
            unit=generator.choice(["dollars", "eggs", "miles", "hours"]),
        )
        cases.append(Case("gsm8k", gold, text, right))
    return cases


HARD = (
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\sqrt{5+2\\sqrt{6}}", "\\sqrt{2}+\\sqrt{3}"),
    ("\\tan^2 y+1", "\\sec^2 y"),
    ("\\sin 2x", "2\\sin x\\cos x"),
    ("x^8+x^7+x^6+x^5+x^4+x^3+x^2+x+1", "\\frac{x^9-1}{x-1}"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("\\frac{1}{3\\sqrt[3]{x}^2}", "\\frac{1}{3x^{2/3}}"),
    ("5x-7y+11z+4=0", "-5x+7y-11z=4"),
    ("x^2+y^2=4", "\\frac{x^2}{4}+\\frac{y^2}{4}=1"),
    ("1\\pm\\sqrt{19}", "1+\\sqrt{19}, 1-\\sqrt{19}"),
    ("(-\\sqrt{3},\\sqrt{3})", "(-\\sqrt3, \\sqrt 3)"),
    ("\\frac{5\\sqrt{42}}{27}", "\\frac{10\\sqrt{10.5}}{27}"),
    ("\\cos 2x", "1-2\\sin^2 x"),
    ("2^{2n}", "4^n"),
    ("\\frac{\\log 3}{\\log 2}", "\\log_2 3"),
    ("\\begin{pmatrix}1/5\\\\-18/5\\end{pmatrix}", "\\begin{pmatrix}0.2\\\\-3.6\\end{pmatrix}"),
)


def bench_throughput(gsm8k: Path | None, num_cases: int) -> int:
    hard = [Case("hard", gold, f"So $\\boxed{{{answer}}}$.", True) for gold, answer in HARD]
    hard += [
        Case("hard", gold, f"So $\\boxed{{{HARD[k - 1][1]}}}$.", False)
        for k, (gold, _) in enumerate(HARD)
    ]
    parts = {"hard symbolic cases": hard}
    if gsm8k is not None:
        parts = {"GSM8K-like outputs (CPU time)": gsm8k_outputs(gsm8k, num_cases), **parts}
    verifier = MathVerifier()
    for _ in range(verifier.num_workers):  # starts them
        verifier.judge(problem("\\sqrt{2}"), "\\boxed{2^{1/2}}")
    peer = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    peer.submit(time_defaults, hard, time.perf_counter).result()
    time.sleep(SETTLE_S)
    print(
        "| cases | n | rlvr `math`, 1 thread | math-verify | ratio | wrong, ours | wrong, theirs |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, cases in parts.items():
        # CPU time tells more on a shared machine, but not of what waits for other processes.
        clock = time.perf_counter if cases is hard else time.process_time
        ours, theirs = list[bool](), list[bool]()
        ours_s = theirs_s = 0.0
        for first in range(0, len(cases), CHUNK):  # in turn, so that both meet the same machine
            chunk = cases[first : first + CHUNK]
            pairs = [(problem(case.gold), case.completion) for case in chunk]
            start = clock()
            verdicts = [verifier.judge(*pair) for pair in pairs]
            ours_s += clock() - start
            ours += [verdict.status is Status.CORRECT for verdict in verdicts]
            found, seconds = peer.submit(time_defaults, chunk, clock).result()
            theirs += found
            theirs_s += seconds
        wrong = [
            sum(verdict != case.correct for verdict, case in zip(verdicts, cases, strict=True))
            for verdicts in (ours, theirs)
        ]
        print(
            f"| {name} | {len(cases)} | {len(cases) / ours_s:,.0f}/s | "
            f"{len(cases) / theirs_s:,.0f}/s | {theirs_s / ours_s:.1f} | {wrong[0]} | {wrong[1]} |",
            flush=True,
        )
    verifier.close_now()
    peer.shutdown()
    return 0


def bench_threads(num_cases: int, num_threads: int, timeout_s: float) -> int:
    """Probes from many threads, 1 % of them hostile; a few of those really run to the deadline."""
    probes = load_probes()
    hostile = [case for case in probes if case.kind.startswith("hostile")]
    usual = [case for case in probes if not case.kind.startswith("hostile")]
    generator = random.Random(0)
    cases = [generator.choice(hostile if k % 100 == 0 else usual) for k in range(num_cases)]
    verifier = MathVerifier(timeout_s=timeout_s)
    memory_before = resident_mb(os.getpid())

    def wrong(case: Case) -> bool:
        verdict = verifier.judge(problem(case.gold), case.completion)
        is_wrong = (verdict.status is Status.CORRECT) != case.correct
        if is_wrong:
            print(f"wrong: {case!r:.200}: {verdict.status} {verdict.detail}", file=sys.stderr)
        return is_wrong

    start = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as threads:
        num_wrong = sum(threads.map(wrong, cases))
    seconds = time.perf_counter() - start
    pids = verifier.pids()
    workers = [resident_mb(pid) for pid in pids]
    growth = resident_mb(os.getpid()) - memory_before
    verifier.close_now()
    leaked = sum(Path(f"/proc/{pid}").exists() for pid in pids)
    print("| verdicts | threads | wrong | seconds | memory growth | workers | leaked processes |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {num_cases:,} | {num_threads} | {num_wrong} | {seconds:.1f} | {growth:.0f} MB | "
        f"{', '.join(f'{size:.0f} MB' for size in workers)} | {leaked} |"
    )
    return num_wrong + leaked


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def main() -> Any:
    parser = argparse.ArgumentParser(description="Measure the math verifier.")
    parser.add_argument("part", choices=["probes", "throughput", "threads"])
    parser.add_argument("--timeout", type=float, default=3.0, help="deadline in seconds")
    parser.add_argument("--gsm8k", type=Path, help="a GSM8K file, for realistic outputs")
    parser.add_argument("--num-cases", type=int, default=None)
    parser.add_argument("--num-threads", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.part == "probes":
        return bench_probes(arguments.timeout)
    if arguments.part == "throughput":
        return bench_throughput(arguments.gsm8k, arguments.num_cases or 2_000)
    return bench_threads(arguments.num_cases or 10_000, arguments.num_threads, arguments.timeout)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
