"""Whatever a candidate sends, it ends that candidate's case and nothing else."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.protocol import Outcome, Result
from verifiers.code_calls import Caller, Ended, frame, frames, parse_loaded, parse_reply
from verifiers.code_function import _report  # the boundary where stdout becomes a report
from verifiers.code_report import CaseOutcome, verdict
from verifiers.code_tests import FunctionTests, parse_tests
from verifiers.protocol import to_verdict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["id", "state", "message", "helpers", "value", "args", "raise", "unsupported"]
)
MESSAGES = JSON | st.dictionaries(KEYS, JSON | st.sampled_from([0, 1, "ready"]), max_size=6)
TAGGED = st.lists(st.sampled_from(list("iufcbBltsSdrOCqDFXKTEz")) | JSON, max_size=5)

TESTS = parse_tests(
    {
        "kind": "function",
        "entry_point": "f",
        "cases": [{"args": [1], "expected": {"a": [{"__set__": [1, 2]}]}}],
    }
)


def judged(stdout: bytes) -> Any:
    """The verdict on one case whose process left these bytes."""
    assert isinstance(TESTS, FunctionTests)
    result = Result(
        outcome=Outcome.EXITED,
        exit_code=0,
        signal=None,
        stdout=stdout,
        stderr=b"",
        wall_s=0.1,
        cpu_s=0.1,
        memory_mb=1.0,
    )
    report = _report(TESTS, TESTS.cases[0], result, 1000)
    return to_verdict(verdict([report], num_cases=1, rule="block", partial_credit=False))


@given(MESSAGES, MESSAGES)
@example({"id": 0, "state": "ready", "helpers": 5}, {"id": 1, "value": 1})
@example({"id": 0, "state": "ready"}, {"id": 1, "value": 1, "args": 7})
@example({"id": 0, "state": "ready"}, {"id": 1, "raise": "\ud800", "message": "\ud800"})
@example({"id": 0, "state": "syntax", "message": ["x"]}, None)
def test_any_messages_end_in_a_failure(first: Any, second: Any) -> None:
    found = judged(frame(first) + frame(second))
    assert found.status in ("incorrect", "no_answer", "limit")
    json.dumps(found.to_json(), ensure_ascii=False).encode()


@given(TAGGED)
def test_any_claimed_value_ends_in_a_failure(value: Any) -> None:
    ready = {"id": 0, "state": "ready", "message": ""}
    found = judged(frame(ready) + frame({"id": 1, "value": value}))
    assert found.status == "incorrect"


@given(st.binary(max_size=40))
def test_any_bytes_end_in_a_failure(stdout: bytes) -> None:
    assert judged(stdout).status == "incorrect"


def test_the_right_claim_is_accepted() -> None:
    ready = {"id": 0, "state": "ready", "message": ""}
    value = ["d", "a", ["l", ["s", 2, 1]]]
    assert judged(frame(ready) + frame({"id": 1, "value": value})).status == "correct"


def test_frames() -> None:
    data = frame({"a": 1}) + frame([])
    assert [json.loads(part) for part in frames(data, most=2)] == [{"a": 1}, []]
    for bad in (data[:-1], data + b"\0", data + frame(0), b"\xff" * 4, b"\0\0\0\0" * 3):
        with pytest.raises(ValueError):
            frames(bad, most=2)


def test_a_million_empty_frames_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="more than 2"):
        frames(bytes(4_000_000), most=2)


def test_a_reply_to_another_call_is_refused() -> None:
    with pytest.raises(Ended, match="answers no call"):
        parse_reply(json.dumps({"id": 2, "value": 1}).encode(), 1)


def test_a_reply_that_is_too_long_is_over_the_output_limit() -> None:
    with pytest.raises(Ended) as ended:
        parse_reply(b'{"id": 1, "value": "' + b"x" * (9 << 20) + b'"}', 1)
    assert ended.value.report.outcome is CaseOutcome.OUTPUT_LIMIT


def test_what_could_not_be_loaded() -> None:
    for state, outcome in (("syntax", "compile_error"), ("missing", "runtime_error")):
        with pytest.raises(Ended) as ended:
            parse_loaded(json.dumps({"id": 0, "state": state, "message": "m"}).encode())
        assert ended.value.report.outcome == outcome


def test_load_stretches_wall_times_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    from verifiers import code_calls

    cpus = os.cpu_count() or 1
    for load, expected in ((0.0, 1.0), (2.0 * cpus, 2.0), (99.0 * cpus, 5.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        assert code_calls._crowding() == expected


class Scripted:
    """A session whose program says one thing, whatever it is asked."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = json.dumps(message).encode()

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes | None:
        return self.message

    async def finish(self) -> Result:
        raise AssertionError("it goes on")


@pytest.mark.parametrize(
    ("mutation", "value", "is_kept"),
    [("auto", ["l"], False), ("auto", None, True), ("always", ["l"], True), ("never", None, False)],
)
async def test_arguments_come_back_only_where_they_may(
    mutation: str, value: Any, is_kept: bool
) -> None:
    """`candidate(xs) == sorted(xs)` holds for a claimed [] if the claim may also empty `xs`."""
    caller = Caller(Scripted({"id": 1, "value": value, "args": [["l"]]}), wall_s=5)
    reply = await caller.call("f", ["l", ["l", 3, 1]], ["d"], mutation)
    assert reply.value == value
    assert reply.args == ([["l"]] if is_kept else None)
