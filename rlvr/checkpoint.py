"""Checkpoints: written whole or not at all, checked when read.

    RUN/checkpoints/step-000040/
        manifest.json       size and SHA-256 of every other file; its presence means "complete"
        state.json          step, data cursor, groups in flight
        groups.jsonl.zst    groups that are sampled and judged, and not yet trained on
        model/ ...          whatever the learner wrote: the model for `transformers`, and its own
                            exact state (weights, optimizer, scheduler, random generators)
    RUN/checkpoints/best -> step-000020

A checkpoint is written into `.tmp-...` beside its place, synced to disk, and renamed: a crash or a
full disk at any moment leaves the older checkpoints as they were. The learner writes its own files,
so a run directory lies on a disk that driver and learner share.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import CheckpointError
from rlvr.group_file import read_groups, write_groups
from rlvr.types import Group

FORMAT = 1
"""Raised when the layout changes in a way that older code cannot read."""

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
GROUPS = "groups.jsonl.zst"
STEP_FOLDER = re.compile(r"step-(\d+)")
BEST = "best"
PARTIAL = ".tmp-"
LOCK = ".lock"
CONFIG = "config.json"
"""The resolved configuration: what makes a folder a run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    step: int
    """Learner steps done."""
    state: dict[str, Any]
    """What the driver gave to `save`."""
    groups: tuple[Group, ...]
    """Groups that are sampled and judged, and not yet trained on."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        run_dir: The run directory.
        keep_last: How many checkpoints are kept, besides the one marked best.
    """

    def __init__(self, run_dir: Path, keep_last: int) -> None:
        self._run_dir = run_dir.resolve()  # the learner's process may have another folder
        self._root = self._run_dir / CHECKPOINTS
        self._keep_last = keep_last

    def path(self, step: int) -> Path:
        return self._root / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first."""
        matches = (STEP_FOLDER.fullmatch(path.name) for path in self._root.glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    async def save(
        self,
        step: int,
        state: dict[str, Any],
        groups: Sequence[Group],
        write: Callable[[Path], Awaitable[None]],
    ) -> Path:
        """Write the checkpoint of `step`, then delete those that are too old.

        A step that is saved already is left as it is: the run has passed each step once.

        Args:
            step: Learner steps done.
            state: JSON-able state of the driver.
            groups: Groups to be trained on after a resume.
            write: Writes the learner's files into the folder it is given.

        Raises:
            CheckpointError: something could not be written; older checkpoints are intact, and
                nothing of this one is left.
        """
        path = self.path(step)
        if path.exists():
            return path
        partial = self._root / f"{PARTIAL}{path.name}"
        try:
            await asyncio.to_thread(self._begin, partial)
            await write(partial)
            await asyncio.to_thread(self._finish, partial, path, step, state, groups)
        except Exception as error:
            # Whatever the learner's libraries raise for a full disk (OSError, RuntimeError from
            # torch, SafetensorError) is the same thing here: this checkpoint was not written.
            message = self._failure(step, error)
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(message) from error
        await asyncio.to_thread(self._prune, step)
        return path

    def _begin(self, partial: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for leftover in self._root.glob(f"{PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(leftover)
        partial.mkdir()

    def _finish(
        self, partial: Path, path: Path, step: int, state: dict[str, Any], groups: Sequence[Group]
    ) -> None:
        _write_json(partial / STATE, state)
        write_groups(partial / GROUPS, groups)
        files = {
            name: {"bytes": (partial / name).stat().st_size, "sha256": digest}
            for name, digest in _digests(partial).items()
        }
        _write_json(partial / MANIFEST, {"format": FORMAT, "step": step, "files": files})
        _sync_tree(partial)
        partial.rename(path)
        _sync(self._root)

    def _prune(self, newest: int) -> None:
        keep = {newest, self.best_step(), *self.steps()[-self._keep_last :]}
        for step in self.steps():
            if step not in keep:
                self._delete(step)

    def _delete(self, step: int) -> None:
        # Renamed first, so that a half-deleted folder is never taken for a checkpoint.
        doomed = self._root / f"{PARTIAL}delete-{step}"
        self.path(step).rename(doomed)
        shutil.rmtree(doomed)

    def mark_best(self, step: int) -> None:
        """Point `checkpoints/best` to the checkpoint of `step`, which is then never pruned."""
        link = self._root / BEST
        partial = self._root / f"{BEST}.new"
        partial.unlink(missing_ok=True)
        partial.symlink_to(self.path(step).name)
        partial.replace(link)

    def best_step(self) -> int | None:
        """The step marked best; null when none is."""
        link = self._root / BEST
        return int(link.readlink().name.removeprefix("step-")) if link.is_symlink() else None

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, checked; null when the run has none yet.

        Raises:
            CheckpointError: it is damaged. An older one is never taken silently instead.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return load_checkpoint(self.path(steps[-1]))
        except CheckpointError as error:
            older = f"resume from step {steps[-2]}" if len(steps) > 1 else "start anew"
            raise CheckpointError(f"{error} Delete that folder to {older}.") from error

    def _failure(self, step: int, error: Exception) -> str:
        free_mb = shutil.disk_usage(self._run_dir).free / 2**20
        steps = self.steps()
        older = (
            f"The checkpoint of step {steps[-1]} is intact" if steps else "There is no older one"
        )
        return (
            f"cannot write the checkpoint of step {step} to {self._root}: "
            f"{type(error).__name__}: {error} ({free_mb:,.0f} MiB free). {older}. "
            f"Free space if the disk is full, then run `rlvr train --resume {self._run_dir}`."
        )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and compare every file with the manifest.

    Raises:
        CheckpointError: it is not a checkpoint, or a file is missing, cut short or altered.
    """
    if not (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path} is not a complete checkpoint: it has no {MANIFEST}. "
            f"Checkpoints are the folders RUN/{CHECKPOINTS}/step-*."
        )
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {manifest['format']}; this version reads {FORMAT}."
            )
        step: int = manifest["step"]
        files: dict[str, dict[str, Any]] = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: cannot read {MANIFEST}.") from error
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing.")
        if file.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name} has {file.stat().st_size} bytes, "
                f"{expected['bytes']} were written."
            )
    digests = _digests(path, only=files)
    for name, expected in files.items():
        if digests[name] != expected["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} was altered (SHA-256).")
    return Checkpoint(
        path=path,
        step=step,
        state=json.loads((path / STATE).read_text()),
        groups=tuple(read_groups(path / GROUPS)),
    )


def require_run(run_dir: Path) -> None:
    """Raise CheckpointError if `run_dir` is not the directory of a run."""
    if (run_dir / CONFIG).is_file():
        return
    found = "it does not exist" if not run_dir.exists() else f"it has no {CONFIG}"
    raise CheckpointError(
        f"{run_dir} is not a run directory: {found}. A run directory is what `rlvr train` makes, "
        f"and holds {CONFIG}, metrics.jsonl and {CHECKPOINTS}/step-*/."
    )


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the run directory, so that no two processes train in it.

    The kernel frees the lock when the process ends, however it ends.

    Raises:
        CheckpointError: another process holds it; the message names it.
    """
    try:
        opened = (run_dir / LOCK).open("a+")
    except OSError as error:
        raise CheckpointError(f"cannot write in the run directory {run_dir}: {error}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise CheckpointError(
                f"{run_dir} is in use by {file.read() or 'another process'}: wait for it to end, "
                "stop it, or choose another run_dir."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _digests(folder: Path, only: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 of the files in a folder by relative path; some 1.7 GB/s a core."""
    if only is None:
        only = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    names = list(only)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the GIL
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _sync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
