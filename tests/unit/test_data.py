from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config import DataConfig
from rlvr.data import ProblemStream, load_problems, verifier_of
from rlvr.errors import DataError
from rlvr.types import Problem, Status
from verifiers.number import NumberVerifier, parse_number
from verifiers.reasoning_gym import (
    METADATA_KEY,
    ReasoningGymVerifier,
    decode,
    encode,
    extract_answer,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED}")

ROWS = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1), "level": i} for i in range(5)]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, **settings: Any) -> list[Problem]:
    return load_problems(DataConfig(path=path.name, **settings), path.parent)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "train.jsonl", ROWS)


# --- sources ---


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path, file: Path) -> None:
    datasets = pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as out:
        out.write(file.read_bytes())
    (tmp_path / "blank.ndjson").write_bytes(
        b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\n")
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "splits")
    expected = [(p.prompt, p.answer) for p in load(file)]
    assert len(expected) == 5
    for name in ("a.jsonl.gz", "blank.ndjson", "a.parquet", "saved", "splits"):
        assert [(p.prompt, p.answer) for p in load(tmp_path / name)] == expected, name


def test_a_folder_of_files_goes_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    jsonl(tmp_path / "folder" / "train.jsonl", ROWS)
    assert [p.answer for p in load(tmp_path / "folder")] == ["1", "2", "3", "4", "5"]


def test_paths_start_at_the_base_dir_unless_absolute(tmp_path: Path, file: Path) -> None:
    assert len(load_problems(DataConfig(path=str(file)), Path("/"))) == 5
    assert len(load_problems(DataConfig(path="./train.jsonl"), tmp_path)) == 5


@needs_shared
def test_gsm8k_from_its_raw_files() -> None:
    settings: dict[str, Any] = {"prompt_field": "question", "answer_regex": r"####\s*(.+)"}
    train, test = (load(SHARED / f"gsm8k_{split}.jsonl", **settings) for split in ("train", "test"))
    assert (len(train), len(test)) == (7473, 1319)
    assert train[0].answer == "72"
    assert train[0].id == "gsm8k_train-1"
    assert any("," in (p.answer or "") for p in train)  # the text is kept as it is
    for problem in train + test:
        assert problem.answer is not None and parse_number(problem.answer) is not None
        verdict = NumberVerifier().verify(problem, f"So it is \\boxed{{{problem.answer}}}.")
        assert verdict.status is Status.CORRECT


@needs_shared
def test_gold_solutions_of_gsm8k_are_judged_correct() -> None:
    rows = [json.loads(line) for line in (SHARED / "gsm8k_test.jsonl").read_text().splitlines()]
    for row in rows:
        gold = row["answer"].rpartition("####")[2].strip()
        problem = Problem(id="p", prompt="?", verifier="number", answer=gold)
        assert NumberVerifier().verify(problem, row["answer"]).status is Status.CORRECT


@needs_shared
def test_humaneval_and_math500() -> None:
    human = load(
        SHARED / "HumanEval.jsonl.gz",
        answer_field=None,
        tests_field="test",
        id_field="task_id",
        chat=False,
        verifier="code",
    )
    assert (len(human), human[0].id) == (164, "HumanEval/0")
    tests = human[0].tests
    assert tests is not None
    assert (tests["kind"], tests["entry_point"]) == ("assert", "has_close_elements")
    assert "def check(candidate)" in tests["code"]
    assert isinstance(human[0].prompt, str) and human[0].prompt.startswith("from typing")
    math = load(
        SHARED / "math500.jsonl", prompt_field="problem", metadata_fields=("subject", "level")
    )
    assert len(math) == 500
    assert math[0].metadata == {"subject": "Precalculus", "level": 2}


# --- mapping ---


def test_a_text_prompt_becomes_a_user_message_or_stays_raw(file: Path) -> None:
    assert load(file)[0].prompt == ({"role": "user", "content": "What is 0 + 1?"},)
    assert load(file, chat=False)[0].prompt == "What is 0 + 1?"
    assert load(file, system_prompt="Be brief.")[0].prompt == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 0 + 1?"},
    )


def test_chat_messages_are_kept(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": messages, "answer": "1"}])
    assert load(file)[0].prompt == tuple(messages)
    rows = [{"prompt": [{**message, "name": None} for message in messages], "answer": "1"}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet")[0].prompt == tuple(messages)


def test_the_template_fills_columns_once_and_leaves_other_braces(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"q": "Is {level} a set?", "answer": "1", "level": 3}])
    problem = load(
        file,
        prompt_field="q",
        chat=False,
        prompt_template=r"{prompt} (level {level}, {{level}}) Answer in \boxed{}: { x }",
    )[0]
    assert problem.prompt == r"Is {level} a set? (level 3, {level}) Answer in \boxed{}: { x }"


def test_numbers_and_ids_become_text(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "?", "answer": 18, "n": 7}])
    problem = load(file, id_field="n")[0]
    assert (problem.id, problem.answer) == ("7", "18")
    assert load(file, answer_field=None)[0].answer is None


def test_the_last_match_of_the_answer_regex_counts(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "?", "answer": "#### 1\n#### 1,234 \n"}])
    assert load(file, answer_regex=r"####\s*(.+)")[0].answer == "1,234"


def test_a_row_can_name_its_verifier(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "answer": "1", "v": name} for name in ("number", "a.py:f")]
    file = jsonl(tmp_path / "a.jsonl", rows)
    assert [p.verifier for p in load(file, verifier_field="v")] == ["number", "a.py:f"]
    assert [p.verifier for p in load(file, verifier="x:y")] == ["x:y", "x:y"]


def test_skip_comes_before_limit_and_keeps_ids(file: Path) -> None:
    ids = [p.id for p in load(file)]
    assert ids == [f"train-{i}" for i in range(1, 6)]
    assert [p.id for p in load(file, skip=1, limit=2)] == ids[1:3]


@pytest.mark.parametrize(
    "tests",
    [
        {"kind": "stdio", "language": "python", "cases": [{"stdin": "1", "stdout": "2"}]},
        '{"kind": "function", "entry_point": "f", "cases": []}',
    ],
)
def test_code_tests_as_an_object_or_its_json(tmp_path: Path, tests: Any) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "?", "t": tests}])
    loaded = load(file, answer_field=None, tests_field="t")[0].tests
    assert loaded == (tests if isinstance(tests, dict) else json.loads(tests))


# --- errors ---


@pytest.mark.parametrize(
    ("line", "settings", "words"),
    [
        ('{"prompt": "?"', {}, ["line 2", "not valid JSON", "column"]),
        ("[1, 2]", {}, ["line 2", "a JSON list"]),
        ('{"prompt": "?", "answer": NaN}', {}, ["line 2", "NaN is not JSON"]),
        ('{"prompt": "?", "answer": ' + "9" * 5000 + "}", {}, ["line 2", "not valid JSON"]),
        ("[" * 100_000, {}, ["line 2", "not valid JSON"]),
        ('{"answer": "1"}', {}, ["line 2", "no column 'prompt'", "Columns: answer"]),
        ('{"promt": "?"}', {}, ["line 2", "did you mean 'promt'"]),
        ('{"prompt": "", "answer": "1"}', {}, ["line 2", "'prompt'", "non-empty"]),
        ('{"prompt": 3, "answer": "1"}', {}, ["line 2", "'prompt' is int 3"]),
        ('{"prompt": [], "answer": "1"}', {}, ["line 2", "'prompt'", "at least one message"]),
        ('{"prompt": ["a"], "answer": "1"}', {}, ["line 2", "'prompt'", "messages"]),
        ('{"prompt": [{"role": "usr", "content": ""}]}', {}, ["line 2", "'prompt'", "usr"]),
        ('{"prompt": [{"role": "user"}]}', {}, ["line 2", "'prompt'", "role and a text content"]),
        ('{"prompt": "?", "answer": null}', {}, ["line 2", "'answer' is NoneType"]),
        ('{"prompt": "?", "answer": true}', {}, ["line 2", "'answer' is bool"]),
        ('{"prompt": "?", "answer": ["1"]}', {}, ["line 2", "'answer' is list"]),
        ('{"prompt": "?", "answer": " "}', {}, ["line 2", "'answer'", "non-empty"]),
        ('{"prompt": "?", "answer": "x"}', {"answer_regex": "([0-9])"}, ["line 2", "answer_regex"]),
        ('{"prompt": "?", "answer": "1"}', {"metadata_fields": ("k",)}, ["line 2", "no column"]),
        ('{"prompt": "?", "answer": "1"}', {"id_field": "k"}, ["line 2", "no column 'k'"]),
        ('{"prompt": "?", "answer": "1", "k": ""}', {"id_field": "k"}, ["line 2", "field 'k'"]),
        ('{"prompt": "?", "answer": "1", "k": 5}', {"tests_field": "k"}, ["line 2", "tests"]),
        ('{"prompt": "?", "answer": "1", "k": "{"}', {"tests_field": "k"}, ["line 2", "JSON"]),
        ('{"prompt": "?", "answer": "1", "k": {}}', {"tests_field": "k"}, ["line 2", "kind"]),
        (
            '{"prompt": "?", "answer": "1", "k": "{\\"kind\\": \\"stdio\\", \\"x\\": NaN}"}',
            {"tests_field": "k"},
            ["line 2", "field k is not JSON-able"],
        ),
        ('{"prompt": "?", "answer": "1", "k": 5}', {"verifier_field": "k"}, ["line 2", "name"]),
    ],
)
def test_malformed_rows_name_file_line_and_field(
    tmp_path: Path, line: str, settings: dict[str, Any], words: list[str]
) -> None:
    good = {"prompt": "?", "answer": "1", "k": "v"}
    if settings.get("tests_field"):
        good["k"] = {"kind": "stdio"}  # type: ignore[assignment]
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.jsonl", **settings)
    for word in ("a.jsonl", *words):
        assert word in str(caught.value)
    assert len(str(caught.value)) < 600


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "?", "answer": "1", "k": "x"}] * 2)
    with pytest.raises(DataError, match=r"line 2: id 'x' was already used at .*line 1"):
        load(file, id_field="k")


def test_data_sets_that_are_missing_empty_or_broken(tmp_path: Path, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "broken.parquet").write_text("PAR1 not really")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(file.read_bytes() * 100)[:60])
    (tmp_path / "plain.jsonl.gz").write_bytes(file.read_bytes())
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    (tmp_path / "data.csv").write_text("prompt,answer\n")
    rows = [{"prompt": "?", "answer": "1"}, {"prompt": None, "answer": "1"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "null.parquet")
    for name, message in {
        "empty.jsonl": "has no problems",
        "missing.jsonl": f"no file {tmp_path}/missing.jsonl",
        "missing.parquet": "no file",
        "./missing": "no file or folder",
        "broken.parquet": "cannot be read as Parquet",
        "cut.jsonl.gz": "cannot be read after line",
        "plain.jsonl.gz": "cannot be read after line",
        "latin.jsonl": "line 1: not valid JSON: 'utf-8' codec",
        "data.csv": "cannot tell the format",
        "null.parquet": "row 2: field 'prompt' is NoneType",
    }.items():
        with pytest.raises(DataError, match=re.escape(message)):
            load_problems(DataConfig(path=name), tmp_path)
    with pytest.raises(DataError, match="after skipping 5"):
        load(file, skip=5)
    with pytest.raises(DataError, match="'arithmetic' has no problems"):
        load_problems(DataConfig(source="arithmetic", params={"size": 3}, skip=3), tmp_path)


def test_an_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="no split 'dev'; splits: train, test"):
        load(tmp_path / "saved", split="dev")


def test_a_hub_id_that_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"'openai/gsm8k' \(name 'main'.*no route to host"):
        load_problems(DataConfig(path="openai/gsm8k", name="main"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_regex": "("}, "not a regular expression"),
        ({"answer_regex": "[0-9]+"}, "needs a group"),
        ({"system_prompt": "x", "chat": False}, "data.chat = true"),
        ({"prompt_template": "{prompt} {answer}"}, "would show the gold"),
        ({"prompt_template": "{prompt} {levle}"}, "did you mean 'level'"),
    ],
)
def test_mappings_that_cannot_work(file: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load(file, **settings)


def test_a_path_is_needed() -> None:
    with pytest.raises(DataError, match=r"data\.path is missing"):
        load_problems(DataConfig(), Path())


# --- order ---


def problems(num: int) -> list[Problem]:
    return [Problem(id=str(i), prompt="?", verifier="number", answer="1") for i in range(num)]


def take(stream: ProblemStream, num: int) -> list[tuple[int, str]]:
    return [(index, problem.id) for index, problem in (stream.next() for _ in range(num))]


@given(num=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_each_problem_comes_once_an_epoch(num: int, seed: int) -> None:
    stream = ProblemStream(problems(num), seed=seed)
    epochs = [[problem for _, problem in take(stream, num)] for _ in range(3)]
    assert all(sorted(epoch) == sorted(p.id for p in problems(num)) for epoch in epochs)


@given(num=st.integers(1, 30), before=st.integers(0, 100), after=st.integers(1, 60))
def test_a_restored_stream_goes_on_identically(num: int, before: int, after: int) -> None:
    stream = ProblemStream(problems(num), seed=3)
    take(stream, before)
    state = json.loads(json.dumps(stream.state()))
    resumed = ProblemStream(problems(num), seed=3)
    resumed.restore(state)
    assert resumed.position == before
    assert take(resumed, after) == take(stream, after)


def test_order_depends_on_the_seed_and_the_epoch_only() -> None:
    first, second = (take(ProblemStream(problems(50), seed=1), 100) for _ in range(2))
    other = take(ProblemStream(problems(50), seed=2), 100)
    assert first == second != other
    assert [i for i, _ in first] == list(range(100))
    assert [p for _, p in first[:50]] != [p for _, p in first[50:]]


def test_file_order_repeats() -> None:
    stream = ProblemStream(problems(3), seed=1, shuffle=False)
    assert [p for _, p in take(stream, 7)] == ["0", "1", "2", "0", "1", "2", "0"]


def test_looking_anywhere_does_not_move_the_cursor() -> None:
    stream = ProblemStream(problems(5), seed=1)
    expected = take(ProblemStream(problems(5), seed=1), 12)
    assert stream.at(11).id == expected[11][1]
    assert stream.at(0).id == expected[0][1]
    assert take(stream, 12) == expected


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ProblemStream(problems(4), seed=1), "num_problems was 5 and is now 4"),
        (ProblemStream(problems(6)[1:], seed=1), "fingerprint"),
        (ProblemStream(problems(5), seed=2), "seed was 1 and is now 2"),
        (ProblemStream(problems(5), seed=1, shuffle=False), "shuffle"),
    ],
)
def test_a_cursor_of_other_data_is_refused(other: ProblemStream, message: str) -> None:
    with pytest.raises(DataError, match=message):
        other.restore(ProblemStream(problems(5), seed=1).state())


# --- reasoning-gym ---


def gym(task: str, **params: Any) -> list[Problem]:
    pytest.importorskip("reasoning_gym")
    config = DataConfig(source="reasoning_gym", path=task, params={"size": 3, **params})
    return load_problems(config, Path())


def test_entries_keep_tuples_and_keys_through_json() -> None:
    value = {"a": (1, [2, (3,)]), "b": {1: "x", (2, 3): None}, "c": {"plain": [True]}}
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_a_task_is_scored_by_its_own_scorer() -> None:
    found = gym("chain_sum", min_terms=3, max_terms=3)
    assert [p.verifier for p in found] == ["reasoning_gym"] * 3
    problem, verifier = found[0], ReasoningGymVerifier()
    assert verifier.verify(problem, f"<answer>{problem.answer}</answer>").reward == 1.0
    assert verifier.verify(problem, f"Let me see.\n{problem.answer}").reward == 1.0
    assert verifier.verify(problem, "<answer>x</answer>").status is Status.INCORRECT
    assert verifier.verify(problem, " ").status is Status.NO_ANSWER
    crumbs = f"<answer>maybe {problem.answer} or so</answer>"
    assert verifier.verify(problem, crumbs).reward == 0.0
    assert ReasoningGymVerifier(threshold=0.0).verify(problem, crumbs).status is Status.PARTIAL
    tags = ReasoningGymVerifier(require_tags=True)
    assert tags.verify(problem, str(problem.answer)).status is Status.NO_ANSWER


def test_problems_repeat_with_the_seed_and_zero_is_the_default() -> None:
    assert gym("chain_sum") == gym("chain_sum", seed=0) != gym("chain_sum", seed=1)


def test_a_composite_mixes_tasks_with_their_own_parameters() -> None:
    found = gym(
        "composite",
        size=12,
        datasets=["chain_sum", {"name": "decimal_arithmetic", "config": {"precision": 8}}],
    )
    tasks = {p.metadata[METADATA_KEY]["task"] for p in found}
    assert tasks == {"chain_sum", "decimal_arithmetic"}
    verifier = ReasoningGymVerifier()
    assert {verifier.verify(p, str(p.answer)).status for p in found} == {Status.CORRECT}


@pytest.mark.slow
def test_every_task_gives_its_own_score_after_a_trip_through_json() -> None:
    pytest.importorskip("reasoning_gym")
    from reasoning_gym.factory import DATASETS, create_dataset

    verifier = ReasoningGymVerifier(threshold=0.0)
    for task in sorted(DATASETS.keys() - {"composite", "game_of_life_halting"}):
        data = create_dataset(task, size=3, seed=0)
        for entry, loaded in zip(data, gym(task), strict=True):
            problem = Problem.from_json(json.loads(json.dumps(loaded.to_json())))
            for answer in {entry["answer"] or "x", "1"}:
                if extract_answer(f"<answer>{answer}</answer>") != answer:
                    continue  # a gold with white space around it
                verdict = verifier.verify(problem, f"<answer>{answer}</answer>")
                if "scorer_raised" not in verdict.detail:
                    assert verdict.reward == data.score_answer(answer, entry), (task, answer)


def test_an_answer_that_breaks_the_scorer_is_wrong_and_a_broken_entry_is_our_fault() -> None:
    problem = gym("prime_factorization")[0]
    verdict = ReasoningGymVerifier().verify(problem, "<answer>2 x y</answer>")
    assert verdict.status is Status.INCORRECT
    broken = Problem(id="p", prompt="?", verifier="reasoning_gym")
    assert ReasoningGymVerifier().verify(broken, "1").status is Status.ERROR


def test_what_reasoning_gym_cannot_do_says_why() -> None:
    for task, params, message in [
        ("word_laddr", {}, "nearest: word_ladder"),
        ("chain_sum", {"min_termz": 2}, "its parameters: min_terms, max_terms"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "refuses data.params"),
        ("composite", {"datasets": ["chain_sumo"]}, "nearest: chain_sum"),
        ("composite", {"datasets": [{"weight": 1}]}, "tables with a name"),
        ("composite", {}, "refuses data.params"),
    ]:
        with pytest.raises(DataError, match=re.escape(message)):
            gym(task, **params)


def test_the_default_verifier_of_a_source() -> None:
    assert verifier_of(DataConfig(path="a.jsonl")) == "number"
    gym_config = DataConfig(source="reasoning_gym", path="chain_sum")
    assert verifier_of(gym_config) == "reasoning_gym"
    resolved = DataConfig.model_validate(gym_config.model_dump())  # what a resume reads
    assert verifier_of(resolved) == "reasoning_gym"
    assert verifier_of(DataConfig(source="reasoning_gym", path="x", verifier="a:b")) == "a:b"


def test_numbers_that_no_checkpoint_could_hold_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"prompt": ["a", "b"], "answer": ["1", "2"], "m": [0.5, float("nan")]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2: field m is not JSON-able"):
        load(tmp_path / "a.parquet", metadata_fields=("m",))


def test_a_template_without_a_placeholder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    with pytest.raises(DataError, match="all prompts would be the same"):
        load(tmp_path / "a.jsonl", prompt_template="Answer with {{}}.")
