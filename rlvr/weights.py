"""Weight transfer: vLLM's own protocol, driven from the learner.

`WeightPublisher` lives in the learner process and moves its weights into every rollout engine. The
transport is one of vLLM's backends: `nccl`, `ipc` (its own), or `ray` (`rlvr.weights_ray`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

from rlvr import rollout_plugin
from rlvr.config import RunConfig
from rlvr.errors import WeightTransferError

Backend = Literal["ray", "nccl", "ipc"]


def version_label(version: int) -> str:
    """The name vLLM knows a policy version by."""
    return f"v{version}"


def parse_version(label: str) -> int:
    """Inverse of `version_label`."""
    return int(label.removeprefix("v"))


def resolve_backend(config: RunConfig, *, has_gpu: bool) -> Backend:
    """`weights.backend`, with `auto` decided: `nccl` when learner and rollouts have GPUs."""
    if config.weights.backend != "auto":
        return config.weights.backend
    return "nccl" if has_gpu and config.learner.device != "cpu" else "ray"


def register_vllm_plugin() -> None:
    """Entry point `vllm.general_plugins`: make the `ray` backend known in vLLM's processes."""
    rollout_plugin.install()
    if "ray" in WeightTransferEngineFactory._registry:  # vLLM may load plugins twice
        return
    WeightTransferEngineFactory.register_engine(
        "ray", "rlvr.weights_worker", "RayWeightTransferEngine"
    )
    WeightTransferTrainerFactory.register_engine(
        "ray", "rlvr.weights_ray", "RayTrainerWeightTransferEngine"
    )


class RolloutHandle(Protocol):
    """A rollout worker, as the publisher sees it."""

    name: str

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the worker's `RolloutEngine`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What one publish took."""

    version: int
    seconds: float
    bytes: int
    """Of the weights, once."""
    phases: dict[str, float]
    """Seconds by phase. Phases of learner and workers overlap: they add up to more than the whole.
    """


class WireSource(WeightSource):
    """The learner's weights in the dtype that the rollout engines hold them in."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
        """`weights` yields whole tensors, the same names in the same order on every pass."""
        self._weights = weights
        self._dtype = dtype
        self._metadata: list[ParamMeta] = []

    def metadata(self) -> list[ParamMeta]:
        if not self._metadata:
            self._metadata = [
                ParamMeta(name, self._dtype, tuple(tensor.shape)) for name, tensor in self._weights
            ]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights:
            yield name, tensor.detach().to(self._dtype)

    @property
    def nbytes(self) -> int:
        return sum(math.prod(meta.shape) * meta.dtype.itemsize for meta in self.metadata())


class SyncClient:
    """vLLM's `VLLMWeightSyncClient` over all rollout workers: one deadline, errors with names."""

    def __init__(self, handles: Sequence[RolloutHandle], timeout_s: float) -> None:
        self._handles = list(handles)
        self._timeout_s = timeout_s
        self.begin(0)

    def begin(self, version: int) -> None:
        """The next update is `version`; its deadline starts now."""
        self._version = version
        self._deadline = time.monotonic() + self._timeout_s
        self.seconds: dict[str, float] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """`nccl`: each engine's processes get ranks of their own, behind the learner's rank 0."""
        infos = [dict(init_info) for _ in self._handles]
        if "rank_offset" in init_info:
            ranks_each = (init_info["world_size"] - init_info["rank_offset"]) // len(infos)
            for index, info in enumerate(infos):
                info["rank_offset"] += index * ranks_each
        self._gather(
            "init_weight_transfer",
            [
                handle.call("init_weight_transfer", info)
                for handle, info in zip(self._handles, infos, strict=True)
            ],
        )

    def start_weight_update(self) -> None:
        self._call("start_weight_update", self._version)

    def update_weights(self, update_info: Any) -> None:
        info = update_info | {"version": self._version} if "buffer" in update_info else update_info
        buffer = info.pop("buffer", None)
        self._call("update_weights", info, buffer)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Every worker must confirm the version (vLLM's own engines do not pass one here)."""
        confirmed = self._call("finish_weight_update", self._version)
        for handle, version in zip(self._handles, confirmed, strict=True):
            if version != self._version:
                raise WeightTransferError(
                    f"{handle.name}: confirmed weights v{version} after v{self._version} were sent"
                )

    def _call(self, method: str, *args: Any) -> list[Any]:
        return self._gather(method, [handle.call(method, *args) for handle in self._handles])

    def _gather(self, method: str, futures: list[Future[Any]]) -> list[Any]:
        started = time.monotonic()
        what = f"{method} (weights v{self._version})"
        results = []
        for handle, future in zip(self._handles, futures, strict=True):
            try:
                results.append(future.result(timeout=max(0.0, self._deadline - time.monotonic())))
            except TimeoutError as error:
                raise WeightTransferError(
                    f"{handle.name}: no answer to {what} within weights.timeout_s = "
                    f"{self._timeout_s:g} s"
                ) from error
            except Exception as error:  # the boundary: whatever a worker raised, with its name
                raise WeightTransferError(
                    f"{handle.name}: {what} failed: {_reason(error)}"
                ) from error
        elapsed = time.monotonic() - started
        self.seconds[method] = self.seconds.get(method, 0.0) + elapsed
        return results


def _reason(error: BaseException) -> str:
    """The last line of an error that crossed processes: the lines before are its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("rlvr.errors.WeightTransferError: ")


@runtime_checkable
class TimedEngine(Protocol):
    """A trainer engine that says what its last `send_weights` took."""

    seconds: dict[str, float]


class WeightPublisher:
    """Moves the learner's weights into every rollout worker. One on every rank of the learner; all
    ranks must construct it, and call `publish`, together.

    `nccl` and `ipc` are vLLM's own engines, driven by the same protocol with the same deadline and
    version check, but without checksums. They need GPUs: no test of ours has run them.
    """

    def __init__(
        self,
        backend: Backend,
        source: Iterable[tuple[str, Tensor]],
        handles: Sequence[RolloutHandle],
        *,
        timeout_s: float,
        rank: int = 0,
        dtype: str = "bfloat16",
        ranks_per_worker: int = 1,
    ) -> None:
        """Connect to every worker.

        Args:
            backend: What `resolve_backend` chose.
            source: Re-iterable; yields Hugging Face names and whole tensors.
            handles: The workers.
            timeout_s: Deadline of each publish.
            rank: This process's rank in the learner; only rank 0 sends.
            dtype: What the rollout engines hold weights in.
            ranks_per_worker: `rollout.tensor_parallel_size` (`nccl` counts processes).

        Raises:
            WeightTransferError: naming the worker that did not take part.
        """
        self._source = WireSource(source, getattr(torch, dtype))
        self._client = SyncClient(handles, timeout_s)
        register_vllm_plugin()
        init_info = _trainer_init_info(backend, rank, 1 + len(handles) * ranks_per_worker)
        self._engine = WeightTransferTrainerFactory.trainer_init(
            init_info, client=self._client, source=self._source
        )

    def publish(self, version: int) -> PublishReport:
        """Send all weights as `version`; return once every worker has confirmed it.

        Raises:
            WeightTransferError: naming the worker that got a corrupted tensor, did not confirm in
                time, or has another version than it should.
        """
        self._client.begin(version)
        started = time.monotonic()
        self._engine.send_weights()
        seconds = time.monotonic() - started
        phases = {f"worker/{name}": value for name, value in self._client.seconds.items()}
        if isinstance(self._engine, TimedEngine):
            phases |= {f"learner/{name}": value for name, value in self._engine.seconds.items()}
        return PublishReport(
            version=version, seconds=seconds, bytes=self._source.nbytes, phases=phases
        )


def _trainer_init_info(backend: Backend, rank: int, world_size: int) -> TrainerInitInfo:
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port

        return NCCLTrainerInitInfo(
            master_address=get_ip(), master_port=get_open_port(), world_size=world_size, rank=rank
        )
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=rank)
    from rlvr.weights_ray import RayTrainerInitInfo

    return RayTrainerInitInfo(rank=rank)
