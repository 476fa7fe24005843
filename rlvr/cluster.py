"""Ray: placement, actors, shutdown. The only file (besides the Ray weight-transfer backend) that
imports ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from rlvr.config import RunConfig
from rlvr.errors import (
    ClusterError,
    ConfigError,
    LearnerError,
    RlvrError,
    RolloutError,
    WeightTransferError,
)
from rlvr.pool import Refresh, RolloutPool
from rlvr.types import Batch, Group

START_TIMEOUT_S = 900.0
"""An engine that compiles or downloads may be slow to start; one that hangs must end the run."""
CLOSE_TIMEOUT_S = 15.0
"""Time for the engines to stop their processes before they are killed."""
OBJECT_STORE_BYTES = 1 << 30
"""Object store of a local cluster. Batches are small, and weights go through in chunks."""


def _enter_actor(log: Path) -> None:
    """Send the process's output, and its children's, to a file in the run directory."""
    from rlvr.guard import ensure_our_verifiers

    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    ensure_our_verifiers()


@ray.remote(num_cpus=0, max_concurrency=4096)  # pyright: ignore[reportCallIssue]
class RolloutActor:
    """One vLLM engine. Calls run concurrently in its event loop."""

    def __init__(self, config: RunConfig, model_dir: str, index: int, log: Path) -> None:
        _enter_actor(log)
        from rlvr.rollout import RolloutEngine

        self._engine = RolloutEngine(config, model_dir, index)

    async def call(self, method: str, *args: Any) -> Any:
        """Run a method of the engine."""
        return await getattr(self._engine, method)(*args)


class RayWorker:
    """A rollout actor as `pool.WorkerHandle`."""

    def __init__(self, actor: Any, log: Path) -> None:
        self.actor = actor
        self._log = log

    async def call(self, method: str, *args: Any) -> Any:
        try:
            return await self.actor.call.remote(method, *args)
        except RayActorError as error:
            raise RolloutError(f"{reason(error)} (log: {self._log})") from error
        except RayTaskError as error:
            raise unwrap(error) from error
        except RayError as error:  # killed by Ray for want of memory, or its node was lost
            raise RolloutError(f"{what_happened(error)} (log: {self._log})") from error

    def kill(self) -> None:
        ray.kill(self.actor)


@ray.remote(num_cpus=0)
class LearnerActor:
    """One rank of the learner. Calls run one after the other."""

    def __init__(self, config: RunConfig, model_dir: str, rank: int, log: Path) -> None:
        _enter_actor(log)
        self._config = config
        self._model_dir = model_dir
        self._rank = rank
        self._version = 0
        self._workers: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._publisher: Any = None

    def rendezvous(self) -> str:
        """Where the ranks meet, when this one is rank 0: an address that other hosts reach."""
        return f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"

    def start(self, rendezvous: str) -> None:
        """Load the model, and meet the other ranks."""
        from rlvr.learner import Learner

        self._learner = Learner(
            self._config,
            self._model_dir,
            rank=self._rank,
            world_size=self._config.learner.num_ranks,
            init_method=rendezvous,
        )

    def step(self, batch: Batch) -> dict[str, float]:
        metrics = self._learner.step(batch)
        self._version = batch.step + 1
        return metrics

    def kl_penalties(self, groups: Sequence[Group]) -> list[list[float]]:
        return self._learner.kl_penalties(groups)

    def save(self, folder: Path) -> None:
        """The exact state under `learner/`, the model for `transformers` under `model/`."""
        self._learner.save_state(folder / "learner")
        self._learner.save_hf(folder / "model")

    def load(self, folder: Path, version: int) -> None:
        self._learner.load_state(folder / "learner")
        self._version = version

    def connect(self, name: str, actor: Any) -> None:
        """Weights go to this rollout worker too, or to this one in place of its dead namesake."""
        self._workers[name] = actor
        self._versions[name] = 0
        self._publisher = None

    def publish(self) -> dict[str, float]:
        """Move the weights into every worker that has an older version.

        Usually that is all of them; after a restart it can be one. Ranks other than 0 take part
        only in gathering the weights.
        """
        behind = [name for name, known in self._versions.items() if known < self._version]
        if not behind:
            return {}
        if len(behind) < len(self._workers):
            report = self._publisher_to(behind).publish(self._version)
        else:
            self._publisher = self._publisher or self._publisher_to(behind)
            report = self._publisher.publish(self._version)
        self._versions |= dict.fromkeys(behind, self._version)
        return {"weights/publish_s": report.seconds, "weights/bytes": float(report.bytes)}

    def _publisher_to(self, names: Sequence[str]) -> Any:
        from rlvr.weights import WeightPublisher, resolve_backend

        config = self._config
        return WeightPublisher(
            resolve_backend(config, has_gpu=self._learner.device.type == "cuda"),
            self._learner.weight_source(),
            [_Target(name, self._workers[name]) for name in names],
            timeout_s=config.weights.timeout_s,
            rank=self._rank,
            dtype=config.rollout.dtype,
            ranks_per_worker=config.rollout.tensor_parallel_size,
        )


class _Target:
    """A rollout actor as `weights.RolloutHandle`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor

    def call(self, method: str, *args: Any) -> Future[Any]:
        return self._actor.call.remote(method, *args).future()


class LearnerGroup:
    """All ranks of the learner, driven together. Implements `train.Learner` but for `publish`."""

    def __init__(self, config: RunConfig, model_dir: str, run_dir: Path, num_gpus: float) -> None:
        ranks = config.learner.num_ranks
        self._logs = [run_dir / "logs" / f"learner-{rank}.log" for rank in range(ranks)]
        self._actors: list[Any] = [
            LearnerActor.options(num_gpus=num_gpus).remote(config, model_dir, rank, log)
            for rank, log in enumerate(self._logs)
        ]

    async def start(self) -> None:
        """Load the model on every rank."""
        await self.call("start", await self.call("rendezvous"))

    async def call(self, method: str, *args: Any) -> Any:
        """Call every rank; rank 0's result.

        Raises:
            RlvrError: what a rank raised, or LearnerError when one died.
        """
        calls = [getattr(actor, method).remote(*args) for actor in self._actors]
        try:
            return (await asyncio.gather(*calls))[0]
        except RayActorError as error:
            raise LearnerError(
                f"a learner process died: {reason(error)} (logs: {self._logs[0].parent}); "
                f"continue from the last checkpoint with `rlvr train --resume`"
            ) from error
        except RayTaskError as error:
            raise unwrap(error) from error
        except RayError as error:
            raise LearnerError(
                f"a learner process was lost: {what_happened(error)} (logs: "
                f"{self._logs[0].parent}); continue with `rlvr train --resume`"
            ) from error

    def kill(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


class Cluster:
    """The actors of one run: `async with Cluster(...) as cluster`. Implements `train.Learner`;
    `rollouts` implements `train.Rollouts`."""

    def __init__(self, config: RunConfig, model_dir: str, run_dir: Path) -> None:
        self._config = config
        self._model_dir = model_dir
        self._run_dir = run_dir

    async def __aenter__(self) -> Cluster:
        init_ray()
        try:
            await self._start()
        except BaseException:
            ray.shutdown()
            raise
        return self

    async def _start(self) -> None:
        config = self._config
        per_worker, per_rank = gpu_shares(config, num_gpus())
        self._learner = LearnerGroup(config, self._model_dir, self._run_dir, per_rank)
        self.rollouts = _make_pool(
            config, self._model_dir, self._run_dir, per_worker, self._refresh
        )
        await asyncio.gather(self._learner.start(), self.rollouts.start())
        for name, worker in self.rollouts.handles.items():
            await self._connect(name, worker)

    async def _connect(self, name: str, worker: Any) -> None:
        await self._learner.call("connect", name, worker.actor)

    async def _refresh(self, name: str, worker: Any) -> None:
        await self._connect(name, worker)
        await self._learner.call("publish")

    async def __aexit__(self, *exc_info: object) -> None:
        await self.rollouts.close(CLOSE_TIMEOUT_S)
        self._learner.kill()
        ray.shutdown()

    async def step(self, batch: Batch) -> dict[str, float]:
        return await self._learner.call("step", ray.put(batch))

    async def publish(self) -> dict[str, float]:
        """See `train.Learner`. A worker that died meanwhile is restarted with the new weights; any
        other failure to confirm ends the run.

        Raises:
            WeightTransferError: naming the worker.
        """
        await self.rollouts.heal()
        try:
            return await self._learner.call("publish")
        except WeightTransferError:
            if not await self.rollouts.heal():
                raise
            return await self._learner.call("publish")

    async def kl_penalties(self, groups: Sequence[Group]) -> list[list[float]]:
        return await self._learner.call("kl_penalties", list(groups))

    async def save(self, folder: Path) -> None:
        await self._learner.call("save", folder)

    async def load(self, folder: Path, version: int) -> None:
        await self._learner.call("load", folder, version)


@contextlib.asynccontextmanager
async def rollout_workers(
    config: RunConfig, model_dir: str, run_dir: Path
) -> AsyncIterator[RolloutPool]:
    """Rollout workers without a learner, for evaluation. Implements `train.Rollouts`."""

    async def keep(name: str, worker: Any) -> None:
        """A restarted worker has the right weights: those of `model_dir`."""

    init_ray()
    try:
        per_worker, _ = gpu_shares(config, num_gpus(), with_learner=False)
        pool = _make_pool(config, model_dir, run_dir, per_worker, keep)
        await pool.start()
        yield pool
        await pool.close(CLOSE_TIMEOUT_S)
    finally:
        ray.shutdown()


def _make_pool(
    config: RunConfig, model_dir: str, run_dir: Path, gpus: float, refresh: Refresh
) -> RolloutPool:
    def spawn(index: int) -> RayWorker:
        log = run_dir / "logs" / f"rollout-{index}.log"
        actor_class: Any = RolloutActor  # what `ray.remote` makes of a class has no static type
        actor = actor_class.options(num_gpus=gpus).remote(config, model_dir, index, log)
        return RayWorker(actor, log)

    return RolloutPool(
        config.rollout.num_workers,
        spawn,
        refresh,
        max_restarts=config.rollout.max_restarts,
        start_timeout_s=START_TIMEOUT_S,
    )


def init_ray() -> None:
    """Join the cluster that RAY_ADDRESS names, or start a small one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Idle OpenMP threads that spin for long starve whatever shares their cores; ten times slower
    # learner steps were measured beside one busy process. Has to be set before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Ray would give its workers low priority, and whatever else runs on the machine their cores.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray would kill the process that frees vLLM's shared memory, too. vLLM's other processes die
    # with their parents in any case.
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "false")
    local: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    joins = bool(os.environ.get("RAY_ADDRESS"))
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if joins else local))
    except Exception as error:  # the boundary to Ray, which raises plain Exception here
        raise ClusterError(
            f"Ray did not start: {reason(error)}; `rlvr doctor` may say why"
        ) from error
    # Paragraphs of advice for every process that dies, in the middle of the display; the run tells
    # of it in a line. (`log_to_driver` does not cover them.)
    ray_worker._worker_logs_enabled = False


def visible_gpus() -> int:
    """GPUs of the cluster that RAY_ADDRESS names, else of this machine; starts nothing."""
    if os.environ.get("RAY_ADDRESS"):
        init_ray()
        try:
            return num_gpus()
        finally:
            ray.shutdown()
    import torch

    return torch.cuda.device_count()


def num_gpus() -> int:
    """GPUs of the cluster that Ray knows of."""
    return int(ray.cluster_resources().get("GPU", 0))


def gpu_shares(
    config: RunConfig, available: int, *, with_learner: bool = True
) -> tuple[float, float]:
    """GPUs that each rollout worker and each learner rank asks Ray for.

    Args:
        with_learner: Whether there is one; evaluation has only rollout workers.

    Raises:
        ConfigError: when the configuration needs more GPUs than there are.
    """
    if config.learner.device == "cpu" or (config.learner.device == "auto" and available == 0):
        if with_learner and config.weights.backend in ("nccl", "ipc"):
            raise ConfigError(
                f'weights.backend = "{config.weights.backend}" needs GPUs, and this run has none: '
                'set it to "ray", or leave it at "auto"'
            )
        return 0.0, 0.0
    rollout = config.rollout
    if config.weights.backend == "ipc" and with_learner:  # learner and worker share each GPU
        per_worker, per_rank = rollout.tensor_parallel_size / 2, 0.5
    else:
        per_worker, per_rank = float(rollout.tensor_parallel_size), 1.0
    ranks = config.learner.num_ranks if with_learner else 0
    needed = rollout.num_workers * per_worker + ranks * per_rank
    if needed > available:
        learner = f", and learner.num_ranks {ranks}" if ranks else ""
        raise ConfigError(
            f"this run needs {needed:g} GPUs (rollout.num_workers {rollout.num_workers} x "
            f"tensor_parallel_size {rollout.tensor_parallel_size}{learner}), but Ray sees "
            f"{available}; ask for fewer, "
            f'or set learner.device = "cpu"'
        )
    return per_worker, per_rank


def unwrap(error: RayTaskError) -> Exception:
    """Our own error as it was raised in the actor; anything else as a ClusterError."""
    if isinstance(error.cause, RlvrError):
        return error.cause
    return ClusterError(f"an actor failed: {reason(error)}")


def reason(error: BaseException) -> str:
    """The last line of an error, which is the one that says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else type(error).__name__
    return last.partition(" Some common causes include")[0]  # Ray's general advice


def what_happened(error: RayError) -> str:
    """The first sentence of an error of Ray's own; pages of advice follow it."""
    if isinstance(error, OutOfMemoryError):
        return "the machine ran out of memory, and Ray killed a process for it: run less at once"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
