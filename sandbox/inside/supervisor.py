"""Process 1 of a container: takes jobs from the host over one stream, runs them one after another.

It holds the only descriptors of that stream, has another user than any run, and cannot be traced or
signalled by one; so results, times and sizes are its word alone. When the stream closes (the host
is gone, however it went) it ends, and the container with it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import traceback
from typing import Any

from sandbox.inside import frames, meter, place, zygote
from sandbox.inside.run import Run, Unclean, ran_out_of_memory

_PR_SET_DUMPABLE = 4
_DRIVER = "sandbox.inside.python_main"


class Supervisor:
    def __init__(self, uid: int, driver_source: str, preload: dict[str, str]) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        place.wipe()
        self._uid = uid = _mapped(uid)
        self._gauge = meter.Meter()
        pid, self._zygote = zygote.start(driver_source, preload)
        if not self._zygote.recv(1 << 10):  # else it is warm
            sys.exit("the zygote did not start")
        os.setresuid(uid, 0, 0)  # the real user's rights go with every signal: see run._kill_all
        self._zygote_bytes = meter.resident_bytes(pid)
        self._stopped = False
        self._run: Run | None = None

    def serve(self) -> None:
        self._send({"op": "hello", "meter": self._gauge.kind, "python": sys.version.split()[0]})
        while (frame := frames.read_frame(self._in)) is not None:
            if frame[0]["op"] == "job":  # anything else is for a job that has ended meanwhile
                self._job(*frame)

    def _job(self, job: dict[str, Any], blobs: list[bytes]) -> None:
        names = job["files"]
        files = dict(zip(names, blobs[: len(names)], strict=True))
        why_unclean, is_fault, answer = "", False, b""
        self._stopped = False
        for index, (case, stdin) in enumerate(zip(job["cases"], blobs[len(names) :], strict=True)):
            try:
                place.lay(files, job["executable"])
                result, outputs = self._case(job, case, stdin)
                if ran_out_of_memory(self._gauge):
                    why_unclean = "a program filled the container's memory"
                else:
                    place.wipe()
            except (Unclean, OSError) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                why_unclean = f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"
                is_fault = True
                break
            message = {"op": "result", "id": job["id"], "index": index, **result}
            answer = frames.pack(message, outputs)
            if index + 1 < len(job["cases"]):  # the last one goes with what follows
                frames.write_all(self._out, answer)
                answer = b""
                self._look_for_stop()
            if self._stopped or why_unclean:
                break
        done = {"op": "done", "id": job["id"], "unclean": why_unclean, "is_fault": is_fault}
        answer += frames.pack(done)
        frames.write_all(self._out, answer)

    def _case(
        self, job: dict[str, Any], case: dict[str, Any], stdin: bytes
    ) -> tuple[dict[str, Any], list[bytes]]:
        request = {
            "argv": [*job["argv"], *case["args"]] if job["argv"] else [],
            "python": job["python"],
            "preloaded": job["preloaded"],
            "args": case["args"],
            "start": job["start"],
            "env": job["env"],
            "limits": job["limits"],
        }
        self._uid += 1
        run = self._run = Run(
            self._zygote,
            self._zygote_bytes,
            self._gauge,
            self._uid,
            request,
            stdin,
            self._forward(job["id"]) if job["session"] else None,
        )
        try:
            run.watch(self._in, self._hear_host)
            result, stdout, stderr = run.end()
        except (Unclean, OSError):
            if not ran_out_of_memory(self._gauge):
                raise
            result, stdout, stderr = run.out_of_memory(), b"", b""
        finally:
            self._run = None
        files = {}
        if result["outcome"] == "exited" and case["collect"]:
            files = place.collect(case["collect"], job["limits"]["file_bytes"])
        return {**result, "files": list(files)}, [stdout, stderr, *files.values()]

    def _forward(self, identifier: int):  # type: ignore[no-untyped-def]
        return lambda data: self._send({"op": "data", "id": identifier}, [data])

    def _look_for_stop(self) -> None:
        while not self._stopped and select.select([self._in], [], [], 0)[0]:
            self._hear_host()

    def _hear_host(self) -> None:
        """A frame that arrives while a job is under way."""
        frame = frames.read_frame(self._in)
        if frame is None:
            sys.exit("the host is gone")
        message, blobs = frame
        if message["op"] == "send":
            if self._run is not None:
                self._run.write(blobs[0])
            return
        self._stopped = True  # "stop" lets the case end, "kill" does not
        if message["op"] == "kill" and self._run is not None:
            self._run.interrupted = True

    def _send(self, message: dict[str, Any], blobs: list[bytes] | tuple[()] = ()) -> None:
        frames.write_all(self._out, frames.pack(message, blobs))


def _mapped(uid: int) -> int:
    """The same id, or one that exists in the user namespace of a remapping daemon."""
    with open("/proc/self/uid_map") as table:
        num_ids = max(sum(map(int, line.split()[::2])) for line in table)
    return uid if uid < num_ids else 1000 + uid % max(1, num_ids // 2)


def main(sources: dict[str, str], uid: int, preload: dict[str, str]) -> None:
    Supervisor(uid, sources[_DRIVER], preload).serve()
