"""`http` against a real local server that misbehaves in each way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from verifiers import Problem, Status, Verdict, VerifierLoadError, load
from verifiers.http_verifier import MAX_BODY_BYTES, HttpVerifier
from verifiers.runner import Runner

PROBLEM = Problem(id="p-1", prompt="1 + 2?", verifier="http", answer="3", metadata={"k": [1]})
GOOD = b'{"status": "correct", "reward": 1, "detail": {"why": "equal"}}'

Handler = Callable[[int, dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Answer each request with `handle(number, request, writer)`; gives the URL, the requests."""
    requests: list[dict[str, Any]] = []
    connections: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {
                key.lower(): value
                for key, _, value in (line.partition(": ") for line in head.splitlines()[1:])
            }
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            requests.append({"line": head.splitlines()[0], "headers": headers, "body": body})
            await handle(len(requests), requests[-1], writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    service = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/judge", requests
    finally:
        service.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)


async def respond(
    writer: asyncio.StreamWriter, body: bytes, status: int = 200, headers: str = ""
) -> None:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


def always(body: bytes, status: int = 200, headers: str = "") -> Handler:
    return lambda number, request, writer: respond(writer, body, status, headers)


async def hang(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def drip(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def reset(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD)
    await writer.drain()


async def endless(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


async def no_http(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n")
    await writer.drain()


def after(failures: int, bad: Handler) -> Handler:
    """Misbehave that often, then answer well."""

    async def handle(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
        await (bad if number <= failures else always(GOOD))(number, request, writer)

    return handle


async def judge(url: str, **params: Any) -> Verdict:
    verifier = HttpVerifier(url=url, **{"timeout_s": 20.0, "backoff_s": 0.01, **params})
    try:
        return await verifier.verify(PROBLEM, "It is 3.")
    finally:
        await verifier.close()


async def test_the_service_gets_a_score_line_and_its_verdict_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    async with server(always(GOOD)) as (url, requests):
        verdict = await judge(url, token_env="JUDGE_TOKEN")
    assert verdict == Verdict.correct(why="equal")
    assert requests[0]["line"] == "POST /judge HTTP/1.1"
    assert requests[0]["headers"]["authorization"] == "Bearer s3cret"
    assert requests[0]["headers"]["content-type"] == "application/json"
    body = requests[0]["body"]
    assert body.keys() == {"id", "problem", "completion"}
    assert (body["id"], body["completion"]) == ("p-1", "It is 3.")
    assert Problem.from_json(body["problem"]) == PROBLEM


@pytest.mark.parametrize(
    "row",
    [
        {"status": "partial", "reward": 0.5},
        {"status": "incorrect", "reward": -2.5, "detail": {}, "latency_s": 3.0, "id": "p-1"},
        {"status": "error", "reward": None, "detail": {"reason": "no gold"}},
    ],
)
async def test_any_verdict_is_taken(row: dict[str, Any]) -> None:
    async with server(always(json.dumps(row).encode())) as (url, requests):
        verdict = await judge(url)
    assert (verdict.status, verdict.reward) == (row["status"], row["reward"])
    assert len(requests) == 1


PASSING = {
    "hang": hang,
    "slow drip": drip,
    "reset": reset,
    "half an answer": half,
    "endless answer": endless,
    "another protocol": no_http,
    "500": always(b"oops", 500),
    "503 with retry-after": always(b"", 503, "Retry-After: 0\r\n"),
    "429": always(b"", 429),
    "garbage": always(b"<html>"),
    "empty": always(b""),
    "not utf-8": always(b"\xff\xfe"),
    "a list": always(b"[]"),
    "no reward": always(b'{"status": "correct"}'),
    "unknown status": always(b'{"status": "right", "reward": 1}'),
    "NaN reward": always(b'{"status": "correct", "reward": NaN}'),
    "huge reward": always(b'{"status": "correct", "reward": 1' + b"0" * 400 + b"}"),
    "text reward": always(b'{"status": "correct", "reward": "1"}'),
    "bool reward": always(b'{"status": "correct", "reward": true}'),
    "no reward but correct": always(b'{"status": "correct", "reward": null}'),
    "error with a reward": always(b'{"status": "error", "reward": 0}'),
    "detail is text": always(b'{"status": "correct", "reward": 1, "detail": "x"}'),
    "deep nesting": always(b"[" * 100_000),
    "huge body": always(b" " * (MAX_BODY_BYTES + 1)),
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_may_pass_is_tried_again(name: str) -> None:
    slow = name in ("hang", "slow drip")
    failures = 1 if slow else 2
    async with server(after(failures, PASSING[name])) as (url, requests):
        verdict = await judge(url, timeout_s=1.0 if slow else 20.0)
    assert verdict.status is Status.CORRECT, verdict.detail
    assert len(requests) == failures + 1


@pytest.mark.parametrize("name", ["reset", "500", "garbage", "NaN reward", "hang"])
async def test_what_does_not_pass_is_an_error_and_never_a_reward(name: str) -> None:
    async with server(PASSING[name]) as (url, requests):
        verdict = await judge(url, max_tries=3, timeout_s=0.1 if name == "hang" else 20.0)
    assert (verdict.status, verdict.reward) == (Status.ERROR, None)
    assert "gave no verdict" in verdict.detail["reason"]
    assert len(requests) == 3 or name == "hang"  # a try may end before it is heard


@pytest.mark.parametrize(
    ("status", "words"), [(400, "status 400: bad"), (401, "401"), (404, "404"), (204, "204")]
)
async def test_other_statuses_are_an_error_at_once(status: int, words: str) -> None:
    async with server(always(b"bad" if status != 204 else b"", status)) as (url, requests):
        verdict = await judge(url)
    assert verdict.status is Status.ERROR
    assert words in verdict.detail["reason"]
    assert verdict.detail["permanent"] is True
    assert len(requests) == 1


async def test_redirects_are_not_followed() -> None:
    async with server(always(GOOD)) as (elsewhere, unwanted):
        handler = always(b"", 307, f"Location: {elsewhere}\r\n")
        async with server(handler) as (url, requests):
            verdict = await judge(url)
    assert verdict.status is Status.ERROR
    assert elsewhere in verdict.detail["reason"]
    assert (len(requests), len(unwanted)) == (1, 0)


async def test_a_compressed_answer_is_not_inflated() -> None:
    import gzip

    handler = always(gzip.compress(GOOD), 200, "Content-Encoding: gzip\r\n")
    async with server(handler) as (url, requests):
        verdict = await judge(url, max_tries=1)
    assert verdict.status is Status.ERROR
    assert requests[0]["headers"]["accept-encoding"] == "identity"


async def test_nobody_listens() -> None:
    async with server(always(GOOD)) as (url, _):
        pass
    verdict = await judge(url, max_tries=2)
    assert verdict.status is Status.ERROR
    assert "Connect" in verdict.detail["reason"]


async def test_the_breaker_spares_a_dead_service_and_notices_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr("verifiers.http_verifier.time", clock)
    async with server(after(3, always(b"", 500))) as (url, requests):
        verifier = HttpVerifier(
            url=url,
            max_tries=1,
            backoff_s=0.01,
            breaker_failures=3,
            breaker_s=5.0,
            patience_s=4.0,
        )
        for _ in range(3):
            await verifier.verify(PROBLEM, "x")
        verdicts = await asyncio.gather(*(verifier.verify(PROBLEM, "x") for _ in range(20)))
        assert {verdict.status for verdict in verdicts} == {Status.ERROR}
        assert "not asked" in verdicts[0].detail["reason"]
        assert "status 500" in verdicts[0].detail["reason"]
        assert len(requests) == 3
        now_s += 5.1
        verdicts = await asyncio.gather(*(verifier.verify(PROBLEM, "x") for _ in range(20)))
        assert [v.status for v in verdicts].count(Status.CORRECT) == 1  # the one that tried
        assert (await verifier.verify(PROBLEM, "x")).status is Status.CORRECT
        assert len(requests) == 5
        await verifier.close()


async def test_a_short_outage_is_waited_out() -> None:
    """While the breaker is open, verdicts wait; all of them are there once the service is back."""
    async with server(after(3, reset)) as (url, requests):
        verifier = HttpVerifier(
            url=url, max_tries=12, backoff_s=0.02, breaker_failures=3, breaker_s=0.1
        )
        verdicts = await asyncio.gather(*(verifier.verify(PROBLEM, "x") for _ in range(3)))
        assert {verdict.status for verdict in verdicts} == {Status.CORRECT}
        assert len(requests) <= 3 + 3 + 1
        await verifier.close()


async def test_the_runner_closes_it_and_does_not_multiply_its_tries() -> None:
    async with server(always(b"", 500)) as (url, requests):
        verifier = load("http", url=url, max_tries=2, backoff_s=0.01)
        async with Runner(timeout_s=20, max_retries=3) as runner:
            verdict = await runner.judge(verifier, PROBLEM, "x")
    assert verdict.status is Status.ERROR
    assert len(requests) == 2
    assert verifier.verify.__self__._client is None  # type: ignore[attr-defined]


async def test_requests_in_flight_are_bounded() -> None:
    in_flight = most = 0

    async def handle(number: int, request: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        await respond(writer, GOOD)

    async with server(handle) as (url, _):
        verifier = load("http", url=url, max_concurrency=3)
        async with Runner(timeout_s=20, max_concurrency=64) as runner:
            verdicts = await asyncio.gather(
                *(runner.judge(verifier, PROBLEM, "x") for _ in range(20))
            )
    assert {verdict.status for verdict in verdicts} == {Status.CORRECT}
    assert most == 3


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"url": "localhost:80"}, "not an http or https URL"),
        ({"url": "ftp://a/b"}, "not an http or https URL"),
        ({"url": "http://a", "token_env": "NO_SUCH_TOKEN"}, "NO_SUCH_TOKEN is not set"),
        ({"url": "http://a", "max_tries": 0}, "must be 1 or more"),
        ({"url": "http://a", "max_concurrency": 0}, "max_concurrency is 0"),
        ({}, "url"),
    ],
)
def test_wrong_parameters_say_why(params: dict[str, Any], words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        load("http", **params)
