"""A real vLLM engine on a tiny random model: what a group contains, and that nothing is left over
when the process that holds the engine is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import RunConfig
from rlvr.errors import DataError, RolloutError
from rlvr.types import Problem
from tests.integration.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    "rollout": {"max_tokens": 32, "max_model_len": 128, "kv_cache_gb": 0.1, "num_threads": 1}
}
RAW = Problem(id="raw", prompt="one two three", verifier="number")
CHAT = Problem(id="chat", prompt=({"role": "user", "content": "hi"},), verifier="number")


class Engine:
    """A `RolloutEngine` in an event loop of its own."""

    def __init__(self, model_dir: Path) -> None:
        from rlvr.rollout import RolloutEngine

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.engine = RolloutEngine(RunConfig.model_validate(CONFIG), str(model_dir), 0)
        self.run(self.engine.start())

    def run(self, coroutine: Any) -> Any:
        return self.submit(coroutine).result(timeout=120)

    def submit(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def generate(self, problem: Problem, num: int, **sampling: Any) -> Any:
        from rlvr.rollout import Sampling

        return self.run(self.engine.generate(7, problem, num, Sampling(**sampling)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    engine = Engine(tiny)
    yield engine
    engine.run(engine.engine.close())


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def test_a_group_holds_what_was_sampled(engine: Engine, tokenizer: Any) -> None:
    group = engine.generate(RAW, 6, max_tokens=24)
    assert (group.index, group.problem, len(group.rollouts)) == (7, RAW, 6)
    for rollout in group.rollouts:
        completion = rollout.completion
        length = len(completion.token_ids)
        assert 0 < length <= 24
        assert len(completion.logprobs) == length
        assert all(logprob <= 0 for logprob in completion.logprobs)
        assert [(s.version, s.start, s.end) for s in completion.versions] == [(0, 0, length)]
        ended = completion.token_ids[-1] == tokenizer.eos_token_id
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        assert rollout.verdict is None
    assert len({rollout.completion.token_ids for rollout in group.rollouts}) > 1


def test_end_of_sequence_is_kept_in_the_tokens_and_left_out_of_the_text(
    engine: Engine, tokenizer: Any
) -> None:
    for _ in range(20):  # a random model ends one token in 258
        group = engine.generate(RAW, 64, max_tokens=32)
        stopped = [r.completion for r in group.rollouts if r.completion.finish_reason == "stop"]
        if stopped:
            break
    assert stopped[0].token_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token not in stopped[0].text


def test_text_prompts_are_raw_and_messages_go_through_the_template(
    engine: Engine, tokenizer: Any
) -> None:
    raw = engine.generate(RAW, 1, max_tokens=1).prompt_token_ids
    assert tokenizer.decode(raw) == "one two three"
    chat = engine.generate(CHAT, 1, max_tokens=1).prompt_token_ids
    assert tokenizer.decode(chat) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_greedy_sampling_repeats_itself(engine: Engine) -> None:
    group = engine.generate(RAW, 3, max_tokens=16, temperature=0.0)
    assert len({rollout.completion.token_ids for rollout in group.rollouts}) == 1


def test_a_stop_string_ends_the_completion_and_stays_in_it(engine: Engine) -> None:
    greedy = engine.generate(RAW, 1, max_tokens=24, temperature=0.0).rollouts[0].completion
    stop = next(char for char in greedy.text if char.isprintable() and char != "\ufffd")
    stopped = engine.generate(RAW, 1, max_tokens=24, temperature=0.0, stop=(stop,))
    completion = stopped.rollouts[0].completion
    assert completion.finish_reason == "stop"
    assert completion.text == greedy.text[: greedy.text.index(stop) + 1]
    assert completion.token_ids == greedy.token_ids[: len(completion.token_ids)]
    assert len(completion.logprobs) == len(completion.token_ids)


def test_prompt_that_does_not_fit_is_refused_with_its_id_and_lengths(engine: Engine) -> None:
    long = Problem(id="long-one", prompt="x" * 100, verifier="number")
    with pytest.raises(DataError, match=r"'long-one'.* 100 tokens, but only 96 fit"):
        engine.generate(long, 2, max_tokens=32)
    assert engine.generate(long, 2, max_tokens=28).rollouts


def test_tokens_are_counted(engine: Engine) -> None:
    before = engine.engine.stats()["tokens_generated"]
    group = engine.generate(RAW, 4, max_tokens=8)
    counted = engine.engine.stats()["tokens_generated"] - before
    assert counted == sum(len(rollout.completion.token_ids) for rollout in group.rollouts)
    assert engine.engine.stats()["completions_running"] == 0


def test_killed_engine_fails_its_requests(engine: Engine) -> None:
    """vLLM's processes may die alone: whoever waits must hear of it. (No test after this one can
    use the engine.)"""
    waiting = engine.submit(_endless(engine))
    time.sleep(0.5)
    for pid in descendants(os.getpid()):
        if "EngineCore" in command(pid):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(RolloutError, match=r"rollout-0: .*dead"):
        waiting.result(timeout=60)
    with pytest.raises(RolloutError, match=r"rollout-0: .*dead"):
        engine.run(engine.engine.check_health())


async def _endless(engine: Engine) -> None:
    from rlvr.rollout import Sampling

    while True:
        await engine.engine.generate(0, RAW, 8, Sampling(max_tokens=32))


def test_no_process_outlives_a_killed_parent(tiny: Path) -> None:
    program = (
        "import asyncio, time\n"
        "from rlvr.config import RunConfig\n"
        "from rlvr.rollout import RolloutEngine\n"
        "async def main():\n"
        f"    engine = RolloutEngine(RunConfig.model_validate({CONFIG!r}), {str(tiny)!r}, 0)\n"
        "    await engine.start()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    file = tiny / "holder.py"
    file.write_text(program)
    with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert any(line.startswith("ready") for line in parent.stdout)
        children = descendants(parent.pid)
        assert any("EngineCore" in command(pid) for pid in children)
        assert any("Worker" in command(pid) for pid in children)
        parent.kill()
    deadline = time.monotonic() + 30
    while (alive := [pid for pid in children if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
