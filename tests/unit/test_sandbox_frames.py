"""Frames between host and supervisor, and jobs as frames."""

from __future__ import annotations

import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import Case, Limits, Program, SandboxUnavailableError
from sandbox.inside import frames
from sandbox.jobs import encode_job

MESSAGES = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=5).filter(lambda key: key != "sizes"), st.integers()),
        st.lists(st.binary(max_size=50), max_size=4),
    ),
    max_size=5,
)


def decoded(data: bytes) -> list[frames.Frame]:
    return list(frames.Decoder().feed(data))


@given(MESSAGES, st.integers(1, 40))
def test_frames_survive_any_cut(messages: list[frames.Frame], size: int) -> None:
    data = b"".join(frames.pack(message, blobs) for message, blobs in messages)
    decoder = frames.Decoder()
    found = [
        frame
        for start in range(0, len(data), size)
        for frame in decoder.feed(data[start : start + size])
    ]
    assert [({**message}, blobs) for message, blobs in messages] == [
        ({key: value for key, value in message.items() if key != "sizes"}, blobs)
        for message, blobs in found
    ]


def test_a_blocking_reader_sees_the_same_and_the_end() -> None:
    reading, writing = os.pipe()
    frame = frames.pack({"op": "x"}, [b"y" * 300_000])  # more than a pipe holds
    thread = threading.Thread(target=lambda: (frames.write_all(writing, frame), os.close(writing)))
    thread.start()
    message, blobs = frames.read_frame(reading) or ({}, [])
    assert (message["op"], blobs) == ("x", [b"y" * 300_000])
    assert frames.read_frame(reading) is None
    thread.join()
    os.close(reading)


def test_a_length_no_frame_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no frames"):
        decoded(b"\xff\xff\xff\xff")


def test_sizes_that_do_not_add_up_are_refused() -> None:
    frame = frames.pack({"op": "x"}, [b"abc"])
    broken = frames.LENGTH.pack(len(frame) - 4 - 1) + frame[4:-1]
    with pytest.raises(ValueError, match="do not add up"):
        decoded(broken)


def test_a_job_carries_files_and_inputs_apart() -> None:
    program = Program(files={"a.py": b"A", "b": b"B"}, python="a.py", env={"X": "1"})
    frame = encode_job(7, program, [Case(stdin=b"one", args=["x"]), Case()], Limits(cpu_s=2))
    [(message, blobs)] = decoded(frame)
    assert message["files"] == ["a.py", "b"] and blobs == [b"A", b"B", b"one", b""]
    assert [case["args"] for case in message["cases"]] == [["x"], []]
    assert message["limits"]["wall_s"] == 5.0
    assert message["env"]["X"] == "1" and "SANDBOX_CHANNEL" not in message["env"]


@pytest.mark.parametrize("content", [b"A", b"changed"])
def test_only_the_very_same_source_counts_as_preloaded(content: bytes) -> None:
    program = Program(files={"a.py": content}, python="a.py")
    frame = encode_job(0, program, [Case()], Limits(), preload={"a.py": b"A"})
    assert decoded(frame)[0][0]["preloaded"] == (content == b"A")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program(), "either argv or a python main file"),
        (Program(python="a.py", argv=["x"]), "either argv or a python main file"),
        (Program(python="a.py"), "not among the program's files"),
        (Program(files={"../a": b""}, argv=["x"]), "not a plain relative path"),
        (Program(files={"/a": b""}, argv=["x"]), "not a plain relative path"),
        (Program(files={"a/./b": b""}, argv=["x"]), "not a plain relative path"),
        (Program(files={"a\0b": b""}, argv=["x"]), "not a plain relative path"),
    ],
)
def test_programs_that_make_no_sense_are_refused(program: Program, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_job(0, program, [Case()], Limits())


@pytest.mark.parametrize("name", ["a/b", "", ".."])
def test_collect_takes_plain_names(name: str) -> None:
    with pytest.raises(ValueError, match="plain file names"):
        encode_job(0, Program(argv=["x"]), [Case(collect=[name])], Limits())


@pytest.mark.parametrize(
    ("name", "value"),
    [("cpu_s", 0), ("cpu_s", float("nan")), ("cpu_s", float("inf")), ("wall_s", -1),
     ("memory_mb", 8), ("processes", 0), ("output_bytes", 0), ("file_bytes", 1), ("open_files", 3)],
)  # fmt: skip
def test_limits_below_what_python_needs_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"limit {name} is"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(SandboxUnavailableError("no daemon")))
    assert type(error) is SandboxUnavailableError and str(error) == "no daemon"
