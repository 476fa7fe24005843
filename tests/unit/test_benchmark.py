"""A whole `rlvr eval` but for the engines: a scripted model stands in for them."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from rlvr import benchmark, benchmark_cli
from rlvr.benchmark_config import (
    BenchmarkConfig,
    EndpointConfig,
    load_benchmark,
    shipped_benchmarks,
)
from rlvr.benchmark_data import benchmark_problems
from rlvr.benchmark_hashes import data_hash, model_hash, prompt_hash, verifier_identity
from rlvr.checkpoint import CheckpointStore
from rlvr.errors import ConfigError, DataError, ResultsError, RolloutError
from rlvr.results import COMPLETIONS, RESULTS, UNJUDGED
from rlvr.sampling import Sampling
from rlvr.types import Completion, Group, Problem, Rollout, VersionSpan


class ScriptedEngines:
    """Stands in for the rollout workers: what a problem's samples say is random, but the same each
    time. Counts what it was asked for, and may die after so many groups."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.num_starts = 0
        self.dies_after: int | None = None

    @asynccontextmanager
    async def workers(self, config: Any, model_dir: str, run_dir: Path):
        self.num_starts += 1
        yield self

    async def check_prompts(self, problems: Any, sampling: Sampling) -> None: ...

    async def generate(self, index: int, problem: Problem, num: int, sampling: Sampling) -> Group:
        rng = random.Random(problem.id)
        await asyncio.sleep(rng.random() * 0.01)
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise RolloutError("the engine died")
        self.asked[problem.id] += num
        rollouts = []
        for _ in range(num):
            text = f"The answer is {rng.choice([problem.answer, '999', 'unknown'])}."
            version = VersionSpan(version=0, start=0, end=1)
            completion = Completion(
                text=text,
                token_ids=(1, 2, 3),
                logprobs=(-1.0,) * 3,
                versions=(version,),
                finish_reason=rng.choice(["stop", "length"]),
            )
            rollouts.append(Rollout(completion=completion))
        return Group(index=index, problem=problem, prompt_token_ids=(0,), rollouts=tuple(rollouts))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngines]:
    import rlvr.cluster

    scripted = ScriptedEngines()
    monkeypatch.setattr(rlvr.cluster, "rollout_workers", scripted.workers)
    yield scripted


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "sums.jsonl"
    rows = [
        {"prompt": f"{i} + 1?", "answer": str(i + 1), "level": "even" if i % 2 == 0 else "odd"}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


SETTINGS = ["n=4", 'data.metadata_fields=["level"]']


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / COMPLETIONS).read_text().splitlines()]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key != "latency_s"} for row in rows]


def test_results_hold_figures_hashes_and_every_completion(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = benchmark.run(model, [data], SETTINGS, output=out)["sums"]
    assert found == json.loads((out / "sums" / RESULTS).read_text())
    rows = rows_of(out / "sums")
    assert [(row["problem_id"], row["sample"]) for row in rows] == [
        (f"sums-{i}", sample) for i in range(1, 21) for sample in range(4)
    ]
    correct = [
        sum(row["status"] == "correct" for row in rows[4 * i : 4 * i + 4]) for i in range(20)
    ]
    assert found["figures"]["avg"]["value"] == pytest.approx(sum(correct) / 80)
    assert found["figures"]["pass_at_k"]["4"]["value"] == pytest.approx(
        sum(count > 0 for count in correct) / 20
    )
    assert set(found["figures"]["breakdown"]["level"]) == {"even", "odd"}
    assert found["tokens"] == 240
    assert {row["answer"] for row in rows if row["problem_id"] == "sums-1"} <= {"1", "999", None}
    assert (out / "report.html").is_file()


def test_an_interrupted_run_resumes_to_the_same_figures_and_samples_nothing_twice(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    whole = benchmark.run(model, [data], SETTINGS, output=tmp_path / "whole")["sums"]
    engines.asked.clear()
    out = tmp_path / "out"
    for dies_after in (3, 11):
        engines.dies_after = dies_after
        with pytest.raises(RolloutError, match="engine died"):
            benchmark.run(model, [data], SETTINGS, output=out)
    with (out / "sums" / COMPLETIONS).open("ab") as file:
        file.write(b'{"problem_id": "sums-20", "sample"')  # torn by a crash
    engines.dies_after = None
    resumed = benchmark.run(model, [data], SETTINGS, output=out)["sums"]
    assert resumed["figures"] == whole["figures"]
    assert without_times(rows_of(out / "sums")) == without_times(rows_of(tmp_path / "whole/sums"))
    assert set(engines.asked.values()) == {4} and len(engines.asked) == 20


def test_a_finished_one_is_not_measured_again(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    first = benchmark.run(model, [data], SETTINGS, output=tmp_path / "out")
    assert benchmark.run(model, [data], SETTINGS, output=tmp_path / "out") == first
    assert engines.num_starts == 1


def test_what_could_not_be_judged_is_judged_again_without_sampling(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    """The verifier is down for problems 1 to 5 until its file says otherwise."""
    verifier = tmp_path / "judge.py"
    verifier.write_text(
        "from pathlib import Path\n"
        "def judge(problem, completion):\n"
        f"    if int(problem.answer) <= 5 and not Path({str(tmp_path / 'up')!r}).exists():\n"
        "        raise RuntimeError('judge is down')\n"
        "    return problem.answer in completion\n"
    )
    settings = [*SETTINGS, f"data.verifier={verifier}:judge", "scoring.max_retries=0"]
    notes: list[str] = []
    out = tmp_path / "out"
    down = benchmark.run(model, [data], settings, output=out, note=notes.append)["sums"]
    assert down["figures"]["num_left_out"] == 5
    assert down["figures"]["statuses"]["error"] == 20
    assert any("judge is down" in note and "20 of 80" in note for note in notes)
    (tmp_path / "up").touch()
    up = benchmark.run(model, [data], settings, output=out)["sums"]
    assert up["figures"]["num_left_out"] == 0
    assert set(engines.asked.values()) == {4} and engines.num_starts == 1
    assert len(rows_of(out / "sums")) == 80
    assert not (out / "sums" / UNJUDGED).exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["n=5"], "sampling.n was 4, is 5"),
        (["temperature=0.5"], "temperature was 1.0, is 0.5"),
        (["limit=10"], "num_problems was 20, is 10"),
        (["system_prompt=Be brief."], "prompt_hash"),
        (["data.verifier_params.strict=true"], "verifier.params.strict"),
    ],
)
def test_another_measurement_is_not_mixed_in(
    engines: ScriptedEngines,
    model: str,
    data: str,
    tmp_path: Path,
    settings: list[str],
    told: str,
) -> None:
    benchmark.run(model, [data], SETTINGS, output=tmp_path / "out")
    with pytest.raises(ResultsError, match=told.replace(".", r"\.")):
        benchmark.run(model, [data], [*SETTINGS, *settings], output=tmp_path / "out")


def test_changed_data_and_changed_weights_are_not_mixed_in(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    benchmark.run(model, [data], SETTINGS, output=tmp_path / "out")
    content = Path(data).read_text()
    Path(data).write_text(content.replace('"answer": "7"', '"answer": "8"'))
    with pytest.raises(ResultsError, match="data_hash"):
        benchmark.run(model, [data], SETTINGS, output=tmp_path / "out")
    Path(data).write_text(content)
    (Path(model) / "model.safetensors").write_bytes(b"others!")
    with pytest.raises(ResultsError, match=r"model\.hash"):
        benchmark.run(model, [data], SETTINGS, output=tmp_path / "out")


def test_benchmarks_with_the_same_engines_share_them(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    found = benchmark.run(model, [data, str(other)], ["n=2"], output=tmp_path / "out")
    assert list(found) == ["sums", "other"] and engines.num_starts == 1
    with pytest.raises(ConfigError, match="two benchmarks are called 'sums'"):
        benchmark.run(model, [data, data], output=tmp_path / "out")


def test_a_setting_may_be_for_one_benchmark_only(data: str) -> None:
    words = ["gsm8k", "reasoning_gym:word_sorting"]
    settings = [
        "n=2",
        f"gsm8k.data.path={data}",
        "gsm8k.data.prompt_field=prompt",
        "gsm8k.data.answer_regex=(.+)",
        "reasoning_gym:word_sorting.n=5",
        "limit=3",
    ]
    gsm8k, sorting = benchmark.plan(words, settings)
    assert (gsm8k.config.n, sorting.config.n) == (2, 5)
    assert (len(gsm8k.problems), len(sorting.problems)) == (3, 3)


def test_a_slow_verdict_does_not_hold_up_sampling(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    """The verdict of the first problem waits until all others are sampled."""
    verifier = tmp_path / "slow.py"
    verifier.write_text(
        "import asyncio\n"
        "sampled = asyncio.Event()\n"
        "async def judge(problem, completion):\n"
        "    await sampled.wait()\n"
        "    return True\n"
    )
    settings = ["n=1", f"data.verifier={verifier}:judge"]
    seen: list[int] = []

    def report(name: str, tally: Any) -> None:
        seen.append(tally.judged)
        if tally.sampled == tally.total:
            loaded = list(sys.modules.values())
            (module,) = [each for each in loaded if vars(each).get("__file__") == str(verifier)]
            module.sampled.set()

    found = benchmark.run(model, [data], settings, output=tmp_path / "out", report=report)
    assert found["sums"]["figures"]["avg"]["value"] == 1.0
    assert seen[:20] == [0] * 20


# Finding benchmarks, and their settings.


def test_every_shipped_benchmark_says_what_it_is() -> None:
    for name in shipped_benchmarks():
        title, config = load_benchmark(name)
        assert title == name
        assert config.description and config.licence
        assert config.data.path is None or config.data_revision
        assert config.data.prompt_template and "{prompt}" in config.data.prompt_template
    assert {"gsm8k", "math500", "aime", "humaneval", "mbpp"} <= shipped_benchmarks().keys()


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        load_benchmark("gsmk8")
    with pytest.raises(ConfigError, match="no such data file"):
        load_benchmark("nowhere.jsonl")
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load_benchmark("nowhere.toml")


def test_a_hub_id_is_a_benchmark() -> None:
    name, config = load_benchmark("owner/its.data", ["data.split=test"])
    assert (name, config.data.path) == ("its.data", "owner/its.data")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tempreture=1", "did you mean `temperature`"),
        ("data.limmit=5", "did you mean `data.limit`"),
        ("n=zero", "`n` = 'zero'"),
        ("n=0", "`n` = 0"),
        ("num_few_shot=99", "there are 5 worked examples"),
        ("rollout.group_size=4", "rollout.group_size is for training"),
        ("rollout.max_model_len=100", "leaves no room"),
    ],
)
def test_a_wrong_setting_is_named(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmark("gsm8k", [override])
    assert told in str(error.value)


def test_greedy_sampling_takes_one_sample() -> None:
    with pytest.raises(ConfigError, match="the same completion 8 times"):
        load_benchmark("gsm8k", ["temperature=0", "n=8"])
    assert load_benchmark("gsm8k", ["temperature=0", "n=1"])[1].temperature == 0


def test_a_recipe_is_a_benchmark_of_its_held_out_data() -> None:
    title, config = load_benchmark("quickstart", ["eval.num_samples=3", "limit=7"])
    assert (title, config.n, config.max_tokens) == ("quickstart", 3, 16)
    assert config.data.params["split"] == "test"
    assert len(benchmark_problems(config)) == 7
    # The shipped benchmark wins over the recipe of the same name: it is the test split.
    assert load_benchmark("gsm8k")[1].data.split == "test"


def test_a_toml_file_is_a_benchmark_or_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('n = 2\n[data]\npath = "p.jsonl"\n')
    assert load_benchmark(str(tmp_path / "mine.toml"))[1].n == 2
    (tmp_path / "recipe.toml").write_text(
        'num_steps = 5\n[data]\npath = "p.jsonl"\n[rollout]\nmax_tokens = 9\n'
    )
    assert load_benchmark(str(tmp_path / "recipe.toml"))[1].max_tokens == 9


# Prompts and data.


def gsm_like(tmp_path: Path, *overrides: str) -> BenchmarkConfig:
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "What is 2 + 2?", "answer": "It is 4.\\n#### 4"}\n')
    return load_benchmark("gsm8k", [f"data.path={path}", *overrides])[1]


def test_worked_examples_are_earlier_turns_in_the_same_template(tmp_path: Path) -> None:
    config = gsm_like(tmp_path, "num_few_shot=2", "system_prompt=Be exact.")
    (problem,) = benchmark_problems(config)
    prompt = problem.prompt
    assert isinstance(prompt, tuple)
    assert [message["role"] for message in prompt] == [
        "system",
        *("user", "assistant") * 2,
        "user",
    ]
    instruction = "Think step by step"
    assert all(instruction in each["content"] for each in prompt if each["role"] == "user")
    assert prompt[2]["content"].endswith("#### 22")
    assert "2 + 2" in prompt[-1]["content"] and problem.answer == "4"


def test_worked_examples_stand_before_a_raw_prompt(tmp_path: Path) -> None:
    (problem,) = benchmark_problems(gsm_like(tmp_path, "num_few_shot=1", "data.chat=false"))
    assert isinstance(problem.prompt, str)
    assert problem.prompt.index("#### 22") < problem.prompt.index("2 + 2")


def test_every_gold_of_the_shipped_worked_examples_is_right() -> None:
    from verifiers.number import NumberVerifier

    _, config = load_benchmark("gsm8k")
    for shot in config.few_shot:
        gold = shot.completion.rpartition("####")[2].strip()
        problem = Problem(id="x", prompt=shot.prompt, verifier="number", answer=gold)
        assert NumberVerifier().verify(problem, shot.completion).status == "correct"
    for name in ("mbpp", "mbpp_sanitized"):
        for shot in load_benchmark(name)[1].few_shot:
            space: dict[str, Any] = {}
            exec(shot.completion.removeprefix("```python\n").removesuffix("```"), space)
            for test in shot.tests:
                exec(test, space)


def test_mbpp_rows_become_assert_tests(tmp_path: Path) -> None:
    row = {
        "task_id": 11,
        "text": "Write a function to add.",
        "code": "import math\ndef helper(x):\n  return x\ndef add(a, b):\n  return helper(a) + b",
        "test_list": ["assert set([add(1, 2)]) == {3}", "assert add(0, 0) == 0"],
        "test_setup_code": "import math",
    }
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (problem,) = benchmark_problems(load_benchmark("mbpp", [f"data.path={path}"])[1])
    assert problem.tests == {
        "language": "python",
        "kind": "assert",
        "entry_point": "add",
        "code": "import math\nassert set([add(1, 2)]) == {3}\nassert add(0, 0) == 0",
    }
    assert problem.metadata["canonical_solution"] == row["code"]
    assert "assert add(0, 0) == 0" in problem.prompt_text and problem.id == "11"
    path.write_text(json.dumps(row | {"test_list": ["assert other(1)"]}) + "\n")
    with pytest.raises(DataError, match="call none of the functions"):
        benchmark_problems(load_benchmark("mbpp", [f"data.path={path}"])[1])


def test_hub_data_is_pinned_and_local_data_is_not_looked_for_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def unreachable(name: str, **settings: Any) -> str:
        asked.append((name, settings["revision"]))
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    assert len(benchmark_problems(gsm_like(tmp_path))) == 1 and not asked
    _, config = load_benchmark("gsm8k")
    with pytest.raises(DataError, match=r"no network; .* data\.path=FILE"):
        benchmark_problems(config)
    assert asked == [("openai/gsm8k", config.data_revision)]


# Hashes.


def problems_of(*answers: str) -> list[Problem]:
    return [
        Problem(id=str(i), prompt=f"{i}?", verifier="number", answer=answer)
        for i, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("digest", "same", "other"),
    [
        (data_hash, problems_of("1", "2"), problems_of("1", "3")),
        (data_hash, problems_of("1", "2"), problems_of("1")),
        (lambda p: prompt_hash(p, None), problems_of("1"), problems_of("1", "1")),
    ],
)
def test_hashes_follow_the_content(digest: Callable[..., str], same: Any, other: Any) -> None:
    assert digest(same) == digest(list(same)) != digest(other)
    assert prompt_hash(same, None) != prompt_hash(same, "{{ messages }}")


def test_a_model_hash_sees_every_byte_and_every_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 100_000)
    before = model_hash(tmp_path)
    assert model_hash(tmp_path) == before
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 77_777 + b"\1" + b"\0" * 22_222)
    assert model_hash(tmp_path) != before
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 100_000)
    assert model_hash(tmp_path) == before
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    assert model_hash(tmp_path) != before


def test_a_verifiers_version_follows_its_code_not_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    spec = f"{file}:judge"
    problems = [Problem(id="1", prompt="?", verifier=spec)]

    def version(code: str) -> str:
        file.write_text(code)
        return verifier_identity(problems, {})["version"]

    first = version("def judge(problem, completion):\n    return True\n")
    assert version("# new\ndef judge(problem, completion):  # all\n\n    return True\n") == first
    assert version("def judge(problem, completion):\n    return False\n") != first


def test_a_verifiers_version_sees_the_modules_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "its_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "judge.py").write_text(
        "from its_package.rules import RIGHT\ndef judge(problem, completion):\n    return RIGHT\n"
    )
    (package / "rules.py").write_text("RIGHT = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    problems = [Problem(id="1", prompt="?", verifier="its_package.judge:judge")]
    first = verifier_identity(problems, {})["version"]
    (package / "rules.py").write_text("RIGHT = False\n")
    assert verifier_identity(problems, {})["version"] != first


# The model.


def make_run(folder: Path, *steps: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    for step in steps:
        model = folder / "checkpoints" / f"step-{step:06d}" / "model"
        model.mkdir(parents=True)
        (model.parent / "manifest.json").write_text("{}")
    return folder


def test_of_a_run_the_best_checkpoint_is_measured_else_the_newest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 10, 20)
    steps = run / "checkpoints"
    assert benchmark.model_folder(str(run)) == (steps / "step-000020/model", "run/step-000020")
    CheckpointStore(run, keep_last=1).mark_best(10)
    assert benchmark.model_folder(str(run)) == (steps / "step-000010/model", "run/step-000010")
    for named in ("step-000010", "best"):
        folder, name = benchmark.model_folder(str(steps / named))
        assert (folder, name) == (steps / "step-000010/model", "run/step-000010")


def test_a_run_without_checkpoints_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        benchmark.model_folder(str(make_run(tmp_path / "run")))


# The command line.


def command(*words: str) -> Result:
    app = typer.Typer()
    app.command()(benchmark_cli.evaluate)
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})


def test_the_command_prints_figures_with_their_intervals(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    done = command(model, data, *SETTINGS, "--output", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    for shown in ("avg@4", "pass@k", "20 problems x 4", "level", "report.html"):
        assert shown in done.stdout
    assert "sums: 80/80 judged" in done.stderr


def test_json_is_all_there_is_on_standard_output(
    engines: ScriptedEngines, model: str, data: str, tmp_path: Path
) -> None:
    done = command(model, data, *SETTINGS, "--json", "--output", str(tmp_path / "out"))
    found = json.loads(done.stdout)["sums"]
    assert found["figures"]["num_problems"] == 20 and found["model"]["name"] == model


def test_an_interrupted_command_says_how_to_go_on(
    engines: ScriptedEngines,
    model: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*words: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", interrupted)
    done = command(model, data, "n=4", "--output", str(tmp_path / "out"))
    assert done.exit_code == 130
    expected = f"to go on: rlvr eval {model} {data} n=4 --output {tmp_path / 'out'}"
    assert expected in done.stderr.replace("\n", "")


def test_a_command_without_a_benchmark_is_refused(model: str) -> None:
    done = command(model, "n=4")
    assert done.exit_code == 2 and "name at least one benchmark" in done.output


def test_a_dry_run_prints_what_would_be_measured(model: str, data: str) -> None:
    done = command(model, data, "n=3", "--dry-run")
    assert json.loads(done.stdout)["sums"]["n"] == 3
    assert "sums: 20 problems x 3" in done.stderr


def test_the_docs_name_every_benchmark_and_every_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    keys = [f"endpoint.{name}" for name in EndpointConfig.model_fields]
    keys += [
        name for name in BenchmarkConfig.model_fields if name not in ("description", "licence")
    ]
    for name in [*shipped_benchmarks(), *keys]:
        assert name in text, f"docs/evaluation.md does not mention {name}"
