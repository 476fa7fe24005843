"""Calling a candidate's functions: one frame out, one frame back, and every frame only a claim."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from sandbox.protocol import Result, Session
from verifiers import code_values
from verifiers.code_report import CaseOutcome, CaseReport, failed

MAX_CROWDING = 5.0
"""Most that a busy machine stretches wall times (the sandbox's own have the same bound)."""
MAX_REPLY_BYTES = 8 << 20
"""Longer replies are over the output limit, whatever that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a candidate says a call did. Exactly one of `value`, `raised`, `unsupported` counts."""

    value: Any = None
    """Wire form of the value, checked."""
    args: Any = None
    """Wire forms of the mutable arguments after the call; null where there is none to tell."""
    raised: list[Any] | None = None
    """Names of the exception's class and its bases."""
    message: str = ""
    unsupported: str | None = None
    """What kind of value it returned that has no wire form."""


class Ended(Exception):
    """The candidate can answer no more; the report says how that case ended."""

    def __init__(self, report: CaseReport) -> None:
        super().__init__(report.note)
        self.report = report


def frame(message: Any) -> bytes:
    """A message as `verifiers/shims/candidate.py` reads it from stdin."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def frames(data: bytes, most: int) -> list[bytes]:
    """The frames of a whole stdout.

    Raises:
        ValueError: it is cut in the middle of one, or has more than so many.
    """
    found: list[bytes] = []
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            raise ValueError("a message is cut short")
        if len(found) == most:
            raise ValueError(f"it sent more than {most} messages")
        found.append(data[start + 4 : end])
        start = end
    return found


def request(
    number: int, name: str, args: Any, kwargs: Any, mutation: str = "never"
) -> dict[str, Any]:
    return {"id": number, "name": name, "args": args, "kwargs": kwargs, "mutation": mutation}


def parse_loaded(data: bytes, result: Result | None = None) -> list[str]:
    """Check the frame that says whether the program could be loaded; the helpers it defines.

    Raises:
        Ended: it could not, or the frame is malformed.
    """
    message = _object(data, 0, result)
    state, text = message.get("state"), str(message.get("message"))
    if state == "ready":
        helpers = message.get("helpers")
        return [name for name in helpers if isinstance(name, str)] if type(helpers) is list else []
    outcome = CaseOutcome.COMPILE_ERROR if state == "syntax" else CaseOutcome.RUNTIME_ERROR
    raise Ended(CaseReport(outcome=outcome, note=text, result=result, no_program=state == "syntax"))


def parse_reply(data: bytes, number: int, result: Result | None = None) -> Reply:
    """Check the frame that answers call `number`.

    Raises:
        Ended: the frame is malformed, or answers another call.
    """
    message = _object(data, number, result)
    try:
        if "raise" in message:
            return Reply(raised=list(message["raise"]), message=str(message.get("message")))
        if "unsupported" in message:
            return Reply(unsupported=str(message["unsupported"]))
        code_values.check(message["value"])
        args = message.get("args") or []
        code_values.check(["l", *args])
    except (KeyError, TypeError, ValueError) as error:
        raise Ended(_violation(f"its reply is malformed: {error}", result)) from error
    return Reply(value=message["value"], args=args)


def _object(data: bytes, number: int, result: Result | None) -> dict[str, Any]:
    if len(data) > MAX_REPLY_BYTES:
        note = f"its reply has {len(data)} bytes, more than {MAX_REPLY_BYTES}"
        raise Ended(CaseReport(outcome=CaseOutcome.OUTPUT_LIMIT, note=note, result=result))
    try:
        message = code_values.parse(data)
    except ValueError as error:
        raise Ended(_violation(f"its reply is malformed: {error}", result)) from error
    if not isinstance(message, dict) or message.get("id") != number:
        raise Ended(_violation("its reply answers no call that was made", result))
    return message


def _violation(note: str, result: Result | None) -> CaseReport:
    return CaseReport(outcome=CaseOutcome.RUNTIME_ERROR, note=note, result=result)


def _crowding() -> float:
    """How much longer than alone a process takes here now."""
    return min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), MAX_CROWDING)


class Caller:
    """Calls over a session, with one budget of wall time for all of them.

    Args:
        wall_s: seconds in which the candidate, loading included, may keep us waiting; more on a
            machine whose load exceeds its CPUs, where it waits itself.
    """

    def __init__(self, session: Session, wall_s: float) -> None:
        self._session = session
        self._left_s = wall_s * _crowding()
        self._number = 0

    async def load(self) -> list[str]:
        """Wait until the program is loaded; the helpers it defines.

        Raises:
            Ended: it cannot be, or it ended.
        """
        return parse_loaded(await self._exchange(None))

    async def call(self, name: str, args: Any, kwargs: Any, mutation: str) -> Reply:
        """One call.

        Raises:
            Ended: it died, hung, or broke the protocol.
        """
        self._number += 1
        message = request(self._number, name, args, kwargs, mutation)
        reply = parse_reply(await self._exchange(json.dumps(message).encode()), self._number)
        # The candidate was told, but may forge: with `args` it rewrites what tests compare with.
        if mutation == "always" or (mutation == "auto" and reply.value is None):
            return reply
        return replace(reply, args=None)

    async def _exchange(self, message: bytes | None) -> bytes:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._left_s):
                if message is not None:
                    await self._session.send(message)
                data = await self._session.receive()
        except TimeoutError:
            note = "it ran out of wall time"
            raise Ended(CaseReport(outcome=CaseOutcome.TIME_LIMIT, note=note)) from None
        self._left_s = max(0.0, self._left_s - (time.perf_counter() - start))
        if data is None:
            raise Ended(failed(await self._session.finish()))
        return data
