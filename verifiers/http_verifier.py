"""`http`: a verdict from any service that takes a score-file line and answers with a verdict.

The service gets `POST url` with `{"id": ..., "problem": {...}, "completion": "..."}` and answers
with status 200 and `{"status": ..., "reward": ..., "detail": {...}}` (what `rlvr score` writes).

| the service | becomes |
|---|---|
| is not reached, resets the connection, is too slow, answers 408, 425, 429 or 5xx | tried again |
| answers 200 with something that is no verdict, or with too much of it | tried again |
| answers another status, redirects included | `error`, at once: asking again cannot help |
| fails `breaker_failures` times in a row | asked by one try every `breaker_s`; the rest wait |
| has failed so for `patience_s` | `error` at once, until one of those tries succeeds |

Waits between tries double from `backoff_s`, with jitter (a random part, so that the tries of many
completions do not come in waves); a `Retry-After` in seconds is honoured up to `MAX_RETRY_AFTER_S`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import Any

import httpx

from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.protocol import MAX_DETAIL_CHARS
from verifiers.verdict import Status, Verdict

MAX_BODY_BYTES = 16 * MAX_DETAIL_CHARS
"""A verdict, with room for escapes."""
MAX_RETRY_AFTER_S = 30.0
"""Longest wait a service may ask for; a longer one would only run into the framework's deadline."""
MAX_SHOWN_CHARS = 300
_RETRIED_4XX = frozenset({408, 425, 429})


class _Failure(Exception):
    """One try failed in a way that another one may mend."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class HttpVerifier:
    """Asks a service; see the module for what its faults become.

    Args:
        url: where to post to.
        timeout_s: deadline of one try, from connecting to the last byte.
        max_tries: tries for one verdict, counting those the breaker held back. The framework's
            deadline (`scoring.timeout_s`) holds for all of them together.
        backoff_s: wait before the second try; doubled for each further one.
        max_concurrency: requests in flight.
        token_env: environment variable with a bearer token; null: no token.
        breaker_failures: failures in a row, of whichever completions, that open the breaker.
        breaker_s: time between tries while it is open.
        patience_s: how long an open breaker lets verdicts wait for the service to come back.

    Raises:
        VerifierLoadError: the URL is malformed, or the token's variable is not set.
    """

    name = "http"

    def __init__(
        self,
        *,
        url: str,
        timeout_s: float = 10.0,
        max_tries: int = 6,
        backoff_s: float = 0.5,
        max_concurrency: int = 32,
        token_env: str | None = None,
        breaker_failures: int = 10,
        breaker_s: float = 5.0,
        patience_s: float = 20.0,
    ) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise VerifierLoadError(f"http: {url!r} is not an http or https URL")
        if max_tries < 1 or breaker_failures < 1:
            raise VerifierLoadError("http: max_tries and breaker_failures must be 1 or more")
        self._headers = {"Accept-Encoding": "identity"}  # no decompression bombs
        if token_env is not None:
            if not os.environ.get(token_env):
                raise VerifierLoadError(f"http: the environment variable {token_env} is not set")
            self._headers["Authorization"] = f"Bearer {os.environ[token_env]}"
        self.max_concurrency = max_concurrency
        self._url = url
        self._timeout_s = timeout_s
        self._max_tries = max_tries
        self._backoff_s = backoff_s
        self._breaker = _Breaker(breaker_failures, breaker_s, patience_s)
        self._client: httpx.AsyncClient | None = None

    async def verify(self, problem: Problem, completion: str) -> Verdict:
        line = {"id": problem.id, "problem": problem.to_json(), "completion": completion}
        body = json.dumps(line).encode()
        last = _Failure("")
        for attempt in range(self._max_tries):
            if attempt:
                await asyncio.sleep(self._wait_s(attempt, last.retry_after_s))
            if not self._breaker.lets_pass():
                last = _Failure(self._breaker.reason)
                if self._breaker.gave_up:
                    break
                continue
            try:
                async with asyncio.timeout(self._timeout_s):
                    verdict = await self._post(body)
            except _Failure as failure:
                last = failure
            except TimeoutError:
                last = _Failure(f"no answer within {self._timeout_s:g} s")
            except httpx.HTTPError as error:
                last = _Failure(f"{type(error).__name__}: {error}")
            except asyncio.CancelledError:
                self._breaker.failed("the framework's deadline passed")
                raise
            else:
                self._breaker.succeeded()
                return verdict
            self._breaker.failed(str(last))
        return Verdict.error(reason=f"{self._url} gave no verdict: {last}", permanent=True)

    async def close(self) -> None:
        """Close the connections. Another `verify` opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _wait_s(self, attempt: int, retry_after_s: float) -> float:
        backoff_s = self._backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return max(backoff_s, min(retry_after_s, MAX_RETRY_AFTER_S))

    async def _post(self, body: bytes) -> Verdict:
        if self._client is None:
            limits = httpx.Limits(max_connections=self.max_concurrency)
            # One deadline for the whole try is ours; httpx's are for each read.
            self._client = httpx.AsyncClient(timeout=None, limits=limits, headers=self._headers)
        headers = {"Content-Type": "application/json"}
        async with self._client.stream(
            "POST", self._url, content=body, headers=headers
        ) as response:
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_BODY_BYTES:
                    raise _Failure(f"the answer is longer than {MAX_BODY_BYTES} bytes")
        text = content.decode("utf-8", errors="replace")
        shown = text[:MAX_SHOWN_CHARS]
        if response.status_code >= 500 or response.status_code in _RETRIED_4XX:
            raise _Failure(f"status {response.status_code}: {shown}", _retry_after_s(response))
        if response.status_code != 200:
            where = response.headers.get("Location")
            hint = f" to {where} (redirects are not followed; give the final URL)" if where else ""
            return Verdict.error(
                reason=f"{self._url} answered status {response.status_code}{hint}: {shown}",
                permanent=True,
            )
        return _parse(text)


class _Breaker:
    """Opens after so many failures in a row; then lets one request pass every `every_s`, until one
    succeeds."""

    def __init__(self, failures: int, every_s: float, patience_s: float) -> None:
        self._max_failures = failures
        self._every_s = every_s
        self._patience_s = patience_s
        self._failures = 0
        self._first_s = 0.0
        self._next_s = 0.0
        self._last = ""

    def lets_pass(self) -> bool:
        if self._failures >= self._max_failures:
            if time.monotonic() < self._next_s:
                return False
            self._next_s = time.monotonic() + self._every_s
        return True

    @property
    def gave_up(self) -> bool:
        return time.monotonic() - self._first_s >= self._patience_s

    @property
    def reason(self) -> str:
        return f"not asked, for it failed {self._failures} times in a row, the last: {self._last}"

    def failed(self, reason: str) -> None:
        now_s = time.monotonic()
        if not self._failures:
            self._first_s = now_s
        self._failures += 1
        self._last = reason
        self._next_s = now_s + self._every_s

    def succeeded(self) -> None:
        self._failures = 0


def _parse(text: str) -> Verdict:
    try:
        row: Any = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError(f"it is {type(row).__name__}, not an object")
        detail = row.get("detail") or {}
        if not isinstance(detail, dict):
            raise ValueError(f"detail is {type(detail).__name__}, not an object")
        reward = row["reward"]
        if isinstance(reward, bool) or not isinstance(reward, int | float | None):
            raise ValueError(f"reward is {reward!r}")
        if reward is not None:
            reward = float(reward)
        return Verdict(status=Status(row["status"]), reward=reward, detail=detail)
    except KeyError as error:
        raise _Failure(f"the answer is no verdict: {error} is missing") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise _Failure(f"the answer is no verdict: {str(error)[:MAX_SHOWN_CHARS]}") from error


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
