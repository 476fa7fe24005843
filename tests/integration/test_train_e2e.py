"""The real thing, small: Ray actors, vLLM engines, the learner and weight transfer on a tiny model.

The task: say lower-case letters. The verifier grades their share, so the reward of a random model
rises within a few steps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.checkpoint import CheckpointStore
from rlvr.completions_log import read_completions
from rlvr.metrics import read_metrics
from tests.integration.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VERIFIER = '''
def lower(problem, completion):
    """The share of characters that are lower-case letters."""
    return sum("a" <= char <= "z" for char in completion) / max(1, len(completion))
'''
RECIPE = """
num_steps = 24
groups_per_step = 8
[model]
path = "{model}"
[data]
path = "{folder}/data.jsonl"
answer_field = ""
verifier = "{folder}/verifier.py:lower"
[rollout]
group_size = 8
max_tokens = 12
max_model_len = 128
kv_cache_gb = 0.25
dtype = "float32"
enforce_eager = true
num_threads = 1
[learner]
lr = 3e-3
compute_dtype = "float32"
num_threads = 1
[checkpoint]
every = 4
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("e2e"))


def write_recipe(folder: Path) -> Path:
    make_tiny_model(folder / "model")
    (folder / "verifier.py").write_text(VERIFIER)
    (folder / "data.jsonl").write_text("".join(f'{{"prompt": "say {i}"}}\n' for i in range(64)))
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(model=folder / "model", folder=folder))
    return path


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True, scope="module")
def no_run_outlives_the_tests() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()


def start(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvr.cli", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == expected, output
    return output


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until `step` is in the metrics; fails when the run ends before."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists():
            rows = read_metrics(run_dir)
            if rows and rows[-1]["step"] >= step:
                return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    pytest.fail(f"step {step} was not reached")


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, through /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def gone(pids: list[int], within_s: float = 120.0) -> list[int]:
    """Those of `pids` that still run after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    alive = pids
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in alive if running(pid)]
        time.sleep(0.1)
    return alive


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Path:
    """One whole run; several tests look at it."""
    run_dir = recipe.parent / "trained"
    finish(start(str(recipe), f"run_dir={run_dir}"))
    return run_dir


def test_reward_rises_and_sampler_and_learner_agree(trained: Path) -> None:
    rows = read_metrics(trained)
    assert [row["step"] for row in rows] == list(range(1, 25))
    first = sum(row["reward/mean"] for row in rows[:3]) / 3
    last = sum(row["reward/mean"] for row in rows[-3:]) / 3
    assert last > first + 0.2, f"reward went from {first:.3f} to {last:.3f}"
    kl = sum(row["mismatch/kl_k3"] for row in rows) / len(rows)
    assert 0 <= kl < 0.01
    assert abs(sum(row["mismatch/kl_k1"] for row in rows) / len(rows)) < 0.01
    assert all(row["lag/max"] == 0 for row in rows)
    assert all(row["weights/bytes"] > 0 for row in rows)


def test_every_completion_is_on_file(trained: Path) -> None:
    table = read_completions(trained).to_pylist()
    assert len(table) == 24 * 64
    for row in table[::97]:
        text = row["completion"]
        expected = sum("a" <= char <= "z" for char in text) / max(1, len(text))
        assert row["reward"] == pytest.approx(expected)
        assert row["oldest_version"] == row["newest_version"] == row["step"] - 1


def test_the_checkpoint_is_an_ordinary_model(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = CheckpointStore(trained, 2).path(24) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say 1"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0][-12:])
    assert sum("a" <= char <= "z" for char in text) >= 6, f"the trained model says {text!r}"


PLAIN_VLLM = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    model = LLM(sys.argv[1], max_model_len=128, dtype="float32", enforce_eager=True)
    (output,) = model.generate(["say 1"], SamplingParams(max_tokens=12, temperature=0))
    print("text:", ascii(output.outputs[0].text))
"""


def test_the_checkpoint_loads_in_plain_vllm(trained: Path, tmp_path: Path) -> None:
    model = CheckpointStore(trained, keep_last=2).path(24) / "model"
    script = tmp_path / "plain.py"
    script.write_text(PLAIN_VLLM)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_PLUGINS": "none"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process starts sooner than three
    done = subprocess.run(
        [sys.executable, str(script), str(model)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = done.stdout.rpartition("text: ")[2]
    assert sum(char.islower() for char in text) > 6, f"not what it was trained to say: {text}"


def test_a_killed_worker_is_replaced_and_nothing_is_lost(recipe: Path) -> None:
    run_dir = recipe.parent / "killed-worker"
    process = start(str(recipe), f"run_dir={run_dir}", "num_steps=12", "rollout.num_workers=2")
    wait_for_step(run_dir, 3, process)
    victims = [pid for pid in descendants(process.pid) if is_worker(pid)]
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    finish(process)
    rows = read_metrics(run_dir)
    assert rows[-1]["workers/restarts"] == 1
    groups = read_completions(run_dir).column("group").to_pylist()[::8]
    assert groups == list(range(12 * 8)), "no group lost, none twice"
    kl = sum(row["mismatch/kl_k3"] for row in rows) / len(rows)
    assert kl < 0.01, "the new worker has the current weights"


def is_worker(pid: int) -> bool:
    try:
        return b"RolloutActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_saves_and_kill_9_leaves_no_process_and_both_resume(recipe: Path) -> None:
    run_dir = recipe.parent / "interrupted"
    process = start(str(recipe), f"run_dir={run_dir}", "num_steps=16", "max_lag=2")
    wait_for_step(run_dir, 2, process)
    process.send_signal(signal.SIGINT)
    output = finish(process, expected=130)
    assert "--resume" in output
    stopped = CheckpointStore(run_dir, 2).steps()[-1]
    assert stopped >= 2

    process = start("--resume", str(run_dir))
    wait_for_step(run_dir, stopped + 5, process)
    family = descendants(process.pid)
    process.kill()
    process.wait()

    finish(start("--resume", str(run_dir)))
    assert gone(family) == [], "processes of a killed run live on"
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(1, 17))
    groups = read_completions(run_dir).column("group").to_pylist()[::8]
    assert groups == list(range(16 * 8)), "no problem skipped, none repeated"
    assert max(row["lag/max"] for row in rows) in (1, 2), "workers run ahead, but never too far"


def test_a_worker_that_keeps_dying_ends_the_run_with_its_error(recipe: Path) -> None:
    run_dir = recipe.parent / "hopeless"
    words = [f"run_dir={run_dir}", "rollout.max_restarts=0", "num_steps=1000"]
    process = start(str(recipe), *words)
    wait_for_step(run_dir, 1, process)
    for pid in descendants(process.pid):
        if is_worker(pid):
            os.kill(pid, signal.SIGKILL)
    output = finish(process, expected=1)
    assert "rollout-0 died" in output and "rollout-0.log" in output
    assert "Traceback" not in output
