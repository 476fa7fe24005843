"""Worker processes: where sync verifiers run, so that a hang can be killed (see worker.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Sequence

from verifiers.forms import LoadedVerifier
from verifiers.problem import Problem
from verifiers.protocol import MAX_DETAIL_CHARS
from verifiers.verdict import Verdict

LOAD_TIMEOUT_S = 120.0
"""For importing a verifier in a new worker. Apart from its own deadline, since importing sympy or
a tokenizer on a busy machine takes longer than most verdicts."""
MAX_ANSWER_BYTES = 16 * MAX_DETAIL_CHARS
"""Longest line of a worker's answer: a verdict, with room for escapes."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from verifiers.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class WorkerProcess:
    """One process that runs sync verifiers, started when needed; one request at a time.

    Args:
        memory_mb: most memory of its own, in MiB; 0: no limit.
    """

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._process: asyncio.subprocess.Process | None = None
        self._loaded: set[str] = set()
        self._closed = False

    async def load(self, verifier: LoadedVerifier) -> Verdict | None:
        """Have the process import the verifier; null when it is ready, else why it is not."""
        key = _key(verifier)
        if self._process is not None and key in self._loaded:
            return None
        request = ("load", key, verifier.spec, dict(verifier.params))
        answer = await self._request(request, LOAD_TIMEOUT_S, "importing the verifier")
        if isinstance(answer, Verdict):
            return answer
        self._loaded.add(key)
        return None

    async def judge(
        self,
        verifier: LoadedVerifier,
        problems: Sequence[Problem],
        completions: Sequence[str],
        timeout_s: float,
    ) -> list[Verdict] | Verdict:
        """One verdict a completion, or the one error that befell them all."""
        request = ("judge", _key(verifier), list(problems), list(completions))
        return await self._request(request, timeout_s, "the verifier")

    async def close(self) -> None:
        self._closed = True
        await self._stop()

    async def _request(
        self, request: tuple[object, ...], timeout_s: float, what: str
    ) -> list[Verdict] | Verdict:
        try:
            message = pickle.dumps(request)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            return Verdict.error(reason=f"{what} cannot be sent to a worker process: {error}")
        try:
            process = self._process or await self._start()
            assert process.stdin is not None and process.stdout is not None
            async with asyncio.timeout(timeout_s):
                process.stdin.write(message)
                await process.stdin.drain()
                lines = [await process.stdout.readline()]
                if lines[0].endswith(b"\n"):
                    lines += [
                        await process.stdout.readline() for _ in range(json.loads(lines[0])["more"])
                    ]
        except TimeoutError:
            await self._stop()
            return timed_out(what, timeout_s)
        except (OSError, ValueError) as error:  # a broken pipe; a line over the limit
            await self._stop()
            return Verdict.error(reason=f"{what}: its worker process failed: {error!r}")
        except BaseException:  # cancelled: the answer to come would be taken for the next one
            await self._stop()
            raise
        if not lines[-1].endswith(b"\n"):
            return Verdict.error(reason=f"{what}: its worker process died, {await self._stop()}")
        failure = json.loads(lines[0])["failure"]
        if failure is not None:
            return Verdict.from_json(failure)
        return [Verdict.from_json(json.loads(line)) for line in lines[1:]]

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _BOOT, json.dumps(sys.path)),
            *(str(os.getpid()), str(self._memory_mb)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_ANSWER_BYTES,
            start_new_session=True,  # what the verifier starts is killed with it; Ctrl-C is ours
        )
        self._process, self._loaded = process, set()
        if self._closed:
            await self._stop()
            raise RuntimeError("the runner was closed while a verdict was under way")
        return process

    async def _stop(self) -> str:
        """Kill the process and all of its group; say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "already stopped"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = await process.wait()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def timed_out(what: str, timeout_s: float) -> Verdict:
    return Verdict.error(reason=f"{what} passed its deadline of {timeout_s:g} s")


def _key(verifier: LoadedVerifier) -> str:
    return f"{verifier.spec} {dict(verifier.params)!r}"
