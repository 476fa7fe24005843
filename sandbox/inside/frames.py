"""Frames of the stream between host and supervisor.

A frame is a 4-byte big-endian length, then so many bytes: a 4-byte length of the JSON message, the
message, and its blobs one after another. The message's `sizes` says how long each blob is.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 30

Frame = tuple[dict[str, Any], list[bytes]]


def pack(message: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    text = json.dumps({**message, "sizes": [len(blob) for blob in blobs]}).encode()
    size = LENGTH.size + len(text) + sum(map(len, blobs))
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes; at most {MAX_FRAME_BYTES} can be sent")
    return b"".join([LENGTH.pack(size), LENGTH.pack(len(text)), text, *blobs])


def unpack(payload: bytes) -> Frame:
    """The message and its blobs of one frame, without the frame's own length."""
    start = LENGTH.size + LENGTH.unpack_from(payload)[0]
    message = json.loads(payload[LENGTH.size : start])
    blobs = []
    for size in message["sizes"]:
        blobs.append(payload[start : start + size])
        start += size
    if start != len(payload):
        raise ValueError("a frame whose sizes do not add up")
    return message, blobs


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if end > LENGTH.size + MAX_FRAME_BYTES:
                raise ValueError("the stream holds no frames")
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            yield unpack(payload)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_exactly(fd: int, size: int) -> bytes | None:
    """So many bytes of a blocking descriptor; null at its end."""
    chunks = []
    while size:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_frame(fd: int) -> Frame | None:
    """The next frame of a blocking descriptor; null at its end."""
    head = read_exactly(fd, LENGTH.size)
    payload = head and read_exactly(fd, LENGTH.unpack(head)[0])
    return unpack(payload) if payload else None
