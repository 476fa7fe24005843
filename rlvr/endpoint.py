"""Sampling from an OpenAI-compatible server: `vllm serve`, or any other that speaks its API.

Each completion is one request, so that what has arrived is kept however the run ends. Requests that
are refused for load (429), fail on the server's side (408, 5xx), time out or get an answer that is
none are sent again, with growing and jittered pauses, or after the time the server asks for; while
it asks for a pause, all others wait too. Any other refusal ends the run with the server's words.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from rlvr.benchmark_config import EndpointConfig
from rlvr.benchmark_loop import Sampled
from rlvr.errors import ConfigError, RolloutError
from rlvr.evaluate import gather
from rlvr.sampling import Sampling
from rlvr.types import Problem

FIRST_PAUSE_S = 0.5
"""Before the first retry; doubled for each further one."""
MAX_RETRIES_UNPROVEN = 3
"""Of a server that has not given any completion yet, or gives none where it should."""
MAX_PAUSE_S = 60.0
"""Longest pause of our own choosing."""
MAX_RETRY_AFTER_S = 900.0
"""Longest pause that a server may ask for; beyond it the run ends (and can be resumed)."""
RETRIED = {408, 409, 425, 429}
"""Client errors that mean "later", besides all server errors."""
MAX_SHOWN_CHARS = 300
"""Of a server's message."""
CHECK_TIMEOUT_S = 10.0
"""For the server's list of models, asked for at the start."""

logger = logging.getLogger(__name__)


class Endpoint:
    """A served model: `async with Endpoint(...) as endpoint`.

    Args:
        url: `http://host:port` or with a path, usually `/v1`, which is added where there is none.
        model: The name it is served under.
    """

    one_by_one = True

    def __init__(self, url: str, model: str, config: EndpointConfig) -> None:
        self.url = base_url(url)
        self._model = model
        self._config = config
        self._slots = asyncio.Semaphore(config.concurrency)
        self._not_before = 0.0
        self._next_at = 0.0
        self._has_answered = False
        key = os.environ.get(config.api_key_env)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout_s,
            limits=httpx.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
        )

    async def __aenter__(self) -> Endpoint:
        try:
            await self._check()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def _check(self) -> None:
        """Say at the start, not after the retries of hundreds of requests, that nobody is there or
        that the model has another name. Servers without a list of models pass."""
        try:
            response = await self._client.get(f"{self.url}/models", timeout=CHECK_TIMEOUT_S)
            names = [each["id"] for each in response.json()["data"]]
        except httpx.HTTPError as error:
            raise RolloutError(
                f"endpoint {self.url} cannot be reached: {_reason(error)}; is the server up, and "
                f"the URL right?"
            ) from error
        except (ValueError, KeyError, TypeError):
            return
        if response.status_code == 200 and self._model not in names:
            raise RolloutError(
                f"endpoint {self.url} serves no model {self._model!r}; it serves: "
                f"{', '.join(map(str, names))}"
            )

    async def sample(
        self, index: int, problem: Problem, num: int, sampling: Sampling
    ) -> list[Sampled]:
        """Completions of a problem, one request each.

        Raises:
            RolloutError: the server refuses the request, or keeps failing.
        """
        body = {
            "model": self._model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **self._config.extra_body,
        }
        if isinstance(problem.prompt, str):
            path, body["prompt"] = "completions", problem.prompt
        else:
            path, body["messages"] = "chat/completions", list(problem.prompt)
        return await gather([self._persist(path, body) for _ in range(num)])

    async def _persist(self, path: str, body: dict[str, Any]) -> Sampled:
        """Send a request until it is answered, or the retries are used up."""
        attempt = 0
        while True:
            try:
                async with self._slots:
                    await self._turn()
                    return await self._send(path, body)
            except _Later as later:
                attempt += 1
                allowed = self._retries_of(later)
                if attempt > allowed:
                    raise RolloutError(
                        f"endpoint {self.url} failed {attempt} times for one completion; last: "
                        f"{later}"
                    ) from later
                pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
                if later.retry_after_s is not None:
                    pause_s = later.retry_after_s
                    self._not_before = max(self._not_before, time.monotonic() + pause_s)
                    logger.info("endpoint asks for %g s of patience", pause_s)
                # Jitter, or all that failed together would come back together.
                await asyncio.sleep(pause_s * random.uniform(1.0, 1.25))

    async def _turn(self) -> None:
        """Wait while the server asks for a pause, and for `requests_per_minute`."""
        while (wait_s := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        if self._config.requests_per_minute is not None:
            at = max(time.monotonic(), self._next_at)
            self._next_at = at + 60 / self._config.requests_per_minute
            await asyncio.sleep(at - time.monotonic())

    def _retries_of(self, failure: _Later) -> int:
        """A server that is busy, or that has worked before, gets all its chances; one that never
        gave a completion is more likely wrong than ill, and is not worth minutes of waiting."""
        allowed = self._config.max_retries
        if failure.busy or (self._has_answered and not failure.rubbish):
            return allowed
        return min(allowed, MAX_RETRIES_UNPROVEN)

    async def _send(self, path: str, body: dict[str, Any]) -> Sampled:
        try:
            # httpx limits each read; a server that drips bytes for ever needs a limit for them all.
            async with asyncio.timeout(self._config.timeout_s):
                response = await self._client.post(f"{self.url}/{path}", json=body)
        except TimeoutError as error:
            raise _Later(f"no answer within {self._config.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise _Later(_reason(error)) from error
        status = response.status_code
        if status in RETRIED or status >= 500:
            raise _Later(
                f"status {status}: {_words(response)}",
                retry_after_s=_retry_after_s(response),
                busy=status == 429,
            )
        if status != 200:
            raise RolloutError(
                f"endpoint {self.url} refused a request with status {status}: {_words(response)}"
            )
        sampled = _read(response)
        self._has_answered = True
        return sampled


class _Later(Exception):
    """A failure that may pass."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        busy: bool = False,
        rubbish: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.busy = busy
        """It has more to do than it can."""
        self.rubbish = rubbish
        """It answered, but with no completion."""


def _read(response: httpx.Response) -> Sampled:
    """The completion in an answer. Reasoning that a server keeps apart is put back before it."""
    try:
        answer = response.json()
        choice = answer["choices"][0]
        if "message" in choice:
            message = choice["message"]
            text = message.get("content") or ""
            thoughts = message.get("reasoning_content") or message.get("reasoning")
            if thoughts:
                text = f"<think>\n{thoughts}\n</think>\n\n{text}"
        else:
            text = choice["text"]
        if not isinstance(text, str):
            raise TypeError(f"its text is {type(text).__name__}")
        tokens = (answer.get("usage") or {}).get("completion_tokens")
        return Sampled(
            text=text,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            num_tokens=int(tokens or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Later(
            f"its answer is no completion ({type(error).__name__}: {error}): {_words(response)}",
            rubbish=True,
        ) from error


def _retry_after_s(response: httpx.Response) -> float | None:
    """The pause a server asks for: seconds, or a date (RFC 9110, section 10.2.3).

    Raises:
        RolloutError: it is longer than anybody waits.
    """
    text = response.headers.get("Retry-After")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    if math.isnan(seconds):
        return None
    if seconds > MAX_RETRY_AFTER_S:
        raise RolloutError(
            f"endpoint answers {response.status_code} and asks to come back in {seconds:.0f} s; "
            f"run the same command again then"
        )
    return max(0.0, seconds)


def base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--endpoint {url!r} is no URL; expected e.g. http://localhost:8000/v1")
    path = parts.path.rstrip("/")
    for suffix in ("/chat/completions", "/completions"):
        path = path.removesuffix(suffix)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _words(response: httpx.Response) -> str:
    """What a server says went wrong, on one line."""
    text = response.text
    try:
        value = json.loads(text)
        error = value.get("error", value) if isinstance(value, dict) else value
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    text = " ".join(text.split())
    return f"{text[:MAX_SHOWN_CHARS]}..." if len(text) > MAX_SHOWN_CHARS else text or "(nothing)"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
