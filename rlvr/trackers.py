"""Experiment trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio.

Each is imported only when it is asked for. After a resume TensorBoard hides the points past the
resumed step; wandb and Trackio continue the same run and show those points twice, since neither
can take back what was logged (metrics.jsonl is the exact record).
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlvr.config import MetricsConfig
from rlvr.errors import ConfigError

TRACKER_ID_FILE = "tracker_id"
"""Holds the id under which wandb and Trackio know the run, so that a resume continues it."""


class Tracker(Protocol):
    """Takes the figures of a step; called from one thread, steps in order."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def rewind(self, step: int) -> None:
        """The run goes on from `step`; forget later points, where that is possible."""
        ...

    def close(self) -> None: ...


def open_trackers(
    run_dir: Path, config: MetricsConfig, run_config: dict[str, Any]
) -> list[Tracker]:
    """The trackers that `config` asks for.

    Raises:
        ConfigError: a tracker is asked for and not installed, or does not start.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoardTracker(run_dir))
    if config.wandb:
        trackers.append(WandbTracker(run_dir, config.project, run_config))
    if config.trackio:
        trackers.append(TrackioTracker(run_dir, config.project, run_config))
    return trackers


class TensorBoardTracker:
    """Event files in `tensorboard/`, written with the `tensorboard` package alone (no torch)."""

    def __init__(self, run_dir: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # protobuf makes these classes at run time: type checkers cannot see them.
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._writer = EventFileWriter(str(run_dir / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        summary = self._summaries.Summary()
        for name, value in metrics.items():
            summary.value.add(tag=name, simple_value=value)
        self._add(step=step, summary=summary)

    def rewind(self, step: int) -> None:
        # TensorBoard drops the points from this event's step on.
        session_log = self._events.SessionLog
        self._add(step=step + 1, session_log=session_log(status=session_log.START))

    def close(self) -> None:
        self._writer.close()

    def _add(self, **fields: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), **fields))
        self._writer.flush()


class WandbTracker:
    """One wandb run, with our step as the x axis of every chart."""

    def __init__(self, run_dir: Path, project: str, run_config: dict[str, Any]) -> None:
        wandb = _import("wandb")
        try:
            self._run = wandb.init(
                project=project,
                name=run_dir.name,
                id=_tracker_id(run_dir),
                dir=str(run_dir),
                config=run_config,
                resume="allow",
            )
        except wandb.errors.Error as error:
            raise ConfigError(
                f"metrics.wandb is on and wandb did not start ({error}): run `wandb login`, set "
                "WANDB_MODE=offline, or set metrics.wandb=false"
            ) from error
        # wandb drops points whose own step goes back, which a resume does; so the step is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def rewind(self, step: int) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """One Trackio run, local unless Trackio's own environment variables say otherwise."""

    def __init__(self, run_dir: Path, project: str, run_config: dict[str, Any]) -> None:
        self._trackio = _import("trackio")
        self._trackio.init(
            project=project,
            name=f"{run_dir.name}-{_tracker_id(run_dir)}",
            config=run_config,
            resume="allow",
            embed=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._trackio.log(dict(metrics), step=step)

    def rewind(self, step: int) -> None:
        pass

    def close(self) -> None:
        self._trackio.finish()


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"metrics.{package} is on and {package} cannot be imported ({error}). "
            f"Run `pip install {package}`, or set metrics.{package}=false."
        ) from error


def _tracker_id(run_dir: Path) -> str:
    path = run_dir / TRACKER_ID_FILE
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
