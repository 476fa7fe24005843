"""Sampling from a server that misbehaves in every way; a real one, on a local port."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rlvr import endpoint as module
from rlvr.benchmark import run
from rlvr.benchmark_config import EndpointConfig
from rlvr.endpoint import Endpoint
from rlvr.errors import ConfigError, RolloutError
from rlvr.results import COMPLETIONS
from rlvr.sampling import Sampling
from rlvr.types import Problem

SAMPLING = Sampling(max_tokens=5, temperature=0.5, top_p=0.9, stop=("END",))
CHAT = Problem(id="1", prompt=({"role": "user", "content": "2 + 2?"},), verifier="number")
CLOSE = "close"
HANG = "hang"


def completion(text: str | None = "4", **message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": text, **message}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
    }


class Server:
    """Speaks just enough HTTP. Answers each request by `script(number, path, body)`: a JSON value,
    (status, value), (status, value, headers), raw text, CLOSE or HANG."""

    def __init__(self, script: Callable[[int, str, Any], Any], models: Any = None) -> None:
        self._script = script
        self._models = models or {"data": [{"id": "served"}]}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.times: list[float] = []
        self.num_running = self.most_running = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (
                        int(line.partition(":")[2])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                if not await self._answer(head, body, writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        path = head.split()[1]
        if path.endswith("/models"):
            answer = self._models
        else:
            self.headers.append(head)
            self.times.append(time.monotonic())
            self.requests.append(json.loads(body))
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
            answer = self._script(len(self.requests) - 1, path, self.requests[-1])
            await asyncio.sleep(0.005)
            self.num_running -= 1
        if answer == CLOSE:
            return False
        if answer == HANG:
            await asyncio.sleep(60)
        status, value, headers = 200, answer, {}
        if isinstance(answer, tuple):
            status, value, *more = answer
            headers = more[0] if more else {}
        content = value if isinstance(value, str) else json.dumps(value)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content.encode())}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + content).encode())
        await writer.drain()
        return True


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.002)


async def sample(
    script: Callable[[int, str, Any], Any], problem: Problem = CHAT, num: int = 1, **settings: Any
) -> tuple[list[Any], Server]:
    server = Server(script)
    async with (
        serving(server) as url,
        Endpoint(url, "served", EndpointConfig(**settings)) as endpoint,
    ):
        return await endpoint.sample(0, problem, num, SAMPLING), server


async def test_a_chat_problem_is_asked_as_chat() -> None:
    (sampled,), server = await sample(
        lambda number, path, body: completion(), extra_body={"top_k": 7}
    )
    assert (sampled.text, sampled.finish_reason, sampled.num_tokens) == ("4", "stop", 3)
    assert server.requests == [
        {
            "model": "served",
            "messages": [{"role": "user", "content": "2 + 2?"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["END"],
            "top_k": 7,
        }
    ]


async def test_a_raw_prompt_is_asked_as_text() -> None:
    problem = Problem(id="1", prompt="2 + 2 =", verifier="number")
    paths = []

    def script(number: int, path: str, body: Any) -> Any:
        paths.append(path)
        return {"choices": [{"text": " 4", "finish_reason": "length"}]}

    (sampled,), server = await sample(script, problem)
    assert (sampled.text, sampled.finish_reason, sampled.num_tokens) == (" 4", "length", 0)
    assert paths == ["/v1/completions"] and server.requests[0]["prompt"] == "2 + 2 ="


async def test_reasoning_that_comes_apart_is_put_before_the_answer() -> None:
    (sampled,), _ = await sample(lambda *_: completion("4", reasoning_content="two and two"))
    assert sampled.text == "<think>\ntwo and two\n</think>\n\n4"


async def test_the_key_is_sent_and_named_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    _, server = await sample(lambda *_: completion(), api_key_env="MY_KEY")
    assert "Bearer sesame" in server.headers[0]
    with pytest.raises(RolloutError) as error:
        await sample(lambda *_: (401, {"error": {"message": "no"}}), api_key_env="MY_KEY")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": {"message": "slow down"}}),
        (500, "oops"),
        (503, {"detail": "loading"}),
        (408, ""),
        "<html>not JSON</html>",
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}}]},
        [1, 2],
        CLOSE,
    ],
    ids=str,
)
async def test_what_may_pass_is_tried_again(failure: Any) -> None:
    (sampled,), server = await sample(
        lambda number, path, body: failure if number < 2 else completion()
    )
    assert sampled.text == "4" and len(server.requests) == 3


async def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    (sampled,), server = await sample(
        lambda number, path, body: HANG if number == 0 else completion(), timeout_s=0.2
    )
    assert sampled.text == "4" and len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((500, "kaputt"), "failed 3 times .* status 500: kaputt"),
        ("<html>", "no completion .*<html>"),
        (CLOSE, "failed 3 times"),
    ],
)
async def test_what_does_not_pass_ends_with_the_servers_words(answer: Any, told: str) -> None:
    with pytest.raises(RolloutError, match=told):
        await sample(lambda *_: answer, max_retries=2)


@pytest.mark.parametrize(
    ("answer", "first", "times"),
    [
        ((500, ""), None, 4),
        ((500, ""), completion(), 7),
        ((429, ""), None, 7),
        ("rubbish", None, 4),
        ("rubbish", completion(), 4),
    ],
)
async def test_a_server_that_never_worked_gets_fewer_chances(
    answer: Any, first: Any, times: int
) -> None:
    """`first` is what another request got before."""
    server = Server(lambda number, path, body: first if first and number == 0 else answer)
    async with (
        serving(server) as url,
        Endpoint(url, "served", EndpointConfig(max_retries=6)) as endpoint,
    ):
        if first:
            await endpoint.sample(0, CHAT, 1, SAMPLING)
        with pytest.raises(RolloutError, match=f"failed {times} times"):
            await endpoint.sample(0, CHAT, 1, SAMPLING)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_not_repeated(status: int) -> None:
    requests = []

    def script(number: int, path: str, body: Any) -> Any:
        requests.append(number)
        return status, {"error": {"message": "context length exceeded"}}

    with pytest.raises(RolloutError, match=f"status {status}: context length exceeded"):
        await sample(script)
    assert len(requests) == 1


@pytest.mark.parametrize(
    "value", ["0.3", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"]
)
async def test_all_wait_as_long_as_the_server_asks(value: Any) -> None:
    asked = value if isinstance(value, str) else value()
    least_s = 0.3 if isinstance(value, str) else 0.5  # a date has whole seconds
    _, server = await sample(
        lambda number, path, body: (
            (429, {}, {"Retry-After": asked}) if number == 0 else completion()
        ),
        num=3,
        concurrency=1,
    )
    assert server.times[1] - server.times[0] >= least_s
    assert len(server.requests) == 4


async def test_nobody_waits_for_hours() -> None:
    with pytest.raises(RolloutError, match="come back in 7200 s"):
        await sample(lambda *_: (429, {}, {"Retry-After": "7200"}))


async def test_no_more_requests_than_allowed_are_in_flight() -> None:
    sampled, server = await sample(lambda *_: completion(), num=20, concurrency=3)
    assert len(sampled) == 20 and server.most_running == 3


async def test_requests_are_spaced_where_a_rate_is_given() -> None:
    _, server = await sample(lambda *_: completion(), num=4, requests_per_minute=600)
    gaps = [after - before for before, after in pairwise(server.times)]
    assert sum(gaps) >= 0.25  # three gaps of 0.1 s, less what the arrivals jitter


async def test_a_server_that_is_down_is_said_at_once() -> None:
    async with serving(Server(lambda *_: completion())) as url:
        pass
    with pytest.raises(RolloutError, match="cannot be reached"):
        async with Endpoint(url, "served", EndpointConfig()):
            pass


async def test_a_wrong_model_name_is_said_at_once() -> None:
    async with serving(Server(lambda *_: completion())) as url:
        with pytest.raises(RolloutError, match="no model 'other'; it serves: served"):
            async with Endpoint(url, "other", EndpointConfig()):
                pass


async def test_a_server_without_a_list_of_models_will_do() -> None:
    server = Server(lambda *_: completion(), models=(404, "nothing here"))
    async with serving(server) as url, Endpoint(url, "any", EndpointConfig()) as endpoint:
        assert len(await endpoint.sample(0, CHAT, 2, SAMPLING)) == 2


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("https://host/api/v1/chat/completions", "https://host/api/v1"),
    ],
)
def test_urls(url: str, base: str) -> None:
    assert module.base_url(url) == base


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL"):
        module.base_url(url)


async def test_nothing_is_lost_when_the_server_goes_down(tmp_path: Path) -> None:
    """It fails for good after 25 of 40 completions; a second run asks for the other 15 only."""
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(f'{{"prompt": "{i} + 0?", "answer": "{i}"}}\n' for i in range(10)))
    settings = ["n=4", "endpoint.max_retries=0", "endpoint.concurrency=4"]
    answered = 0
    down = True

    def script(number: int, path: str, body: Any) -> Any:
        nonlocal answered
        if down and answered >= 25:
            return 500, "down"
        answered += 1
        return completion(f"The answer is {body['messages'][0]['content'].split()[0]}.")

    server = Server(script)
    async with serving(server) as url:

        def measure() -> dict[str, Any]:
            return run("served", [str(data)], settings, output=tmp_path / "out", endpoint=url)

        with pytest.raises(RolloutError, match="down"):
            await asyncio.to_thread(measure)
        down = False
        found = await asyncio.to_thread(measure)
    assert found["sums"]["figures"]["avg"]["value"] == 1.0
    assert found["sums"]["model"] == {"name": "served", "hash": None, "endpoint": f"{url}/v1"}
    rows = (tmp_path / "out" / "sums" / COMPLETIONS).read_text().splitlines()
    assert len(rows) == 40
    assert answered <= 40 + 3  # those in flight when the first failure ended the run
