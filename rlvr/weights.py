"""Weight transfer: vLLM's own protocol, driven from the learner.

`WeightPublisher` lives in the learner process and moves its weights into every rollout engine. The
transport is one of vLLM's backends: `nccl`, `ipc` (its own), or `ray` (`rlvr.weights_ray`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rlvr.config import RunConfig
from rlvr.errors import WeightTransferError

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import WeightSource

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
    from vllm.distributed.weight_transfer.factory import (
        WeightTransferEngineFactory,
        WeightTransferTrainerFactory,
    )

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
    phases: dict[str, float]
    """Seconds by phase."""


class SyncClient:
    """vLLM's `VLLMWeightSyncClient` over all rollout workers: one deadline, errors with names."""

    def __init__(self, handles: Sequence[RolloutHandle], timeout_s: float) -> None:
        self.handles = list(handles)
        self.timeout_s = timeout_s
        self.version = 0
        self.seconds: dict[str, float] = {}
        self._deadline = float("inf")

    def begin(self, version: int) -> None:
        """The next update is `version`; its deadline starts now."""
        self.version = version
        self.seconds = {}
        self._deadline = time.monotonic() + self.timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._deadline = time.monotonic() + self.timeout_s
        self._call("init_weight_transfer", init_info)

    def start_weight_update(self) -> None:
        self._call("start_weight_update", self.version)

    def update_weights(self, update_info: Any) -> None:
        info = dict(update_info)
        buffer = info.pop("buffer", None)
        self._call("update_weights", info, buffer)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        confirmed = self._call("finish_weight_update", self.version)
        for handle, version in zip(self.handles, confirmed, strict=True):
            if version != self.version:
                raise WeightTransferError(
                    f"{handle.name}: confirmed weights v{version} after v{self.version} were sent"
                )

    def _call(self, method: str, *args: Any) -> list[Any]:
        started = time.monotonic()
        futures = [handle.call(method, *args) for handle in self.handles]
        results = []
        for handle, future in zip(self.handles, futures, strict=True):
            try:
                results.append(future.result(timeout=max(0.0, self._deadline - time.monotonic())))
            except TimeoutError as error:
                raise WeightTransferError(
                    f"{handle.name}: no answer to {method} (weights v{self.version}) within "
                    f"weights.timeout_s = {self.timeout_s:g} s"
                ) from error
            except Exception as error:
                raise WeightTransferError(
                    f"{handle.name}: {method} (weights v{self.version}) failed: {error}"
                ) from error
        elapsed = time.monotonic() - started
        self.seconds[method] = self.seconds.get(method, 0.0) + elapsed
        return results


class WeightPublisher:
    """Moves the learner's weights into every rollout worker."""

    def __init__(
        self,
        backend: Backend,
        source: WeightSource,
        handles: Sequence[RolloutHandle],
        *,
        timeout_s: float,
        rank: int = 0,
        dtype: str = "bfloat16",
    ) -> None:
        import torch

        from rlvr.weights_ray import RayTrainerInitInfo, RayTrainerWeightTransferEngine

        register_vllm_plugin()
        self._client = SyncClient(handles, timeout_s)
        assert backend == "ray"
        self._engine = RayTrainerWeightTransferEngine.trainer_init(
            RayTrainerInitInfo(rank=rank, dtype=getattr(torch, dtype)),
            client=self._client,
            source=source,
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
        return PublishReport(
            version=version,
            seconds=time.monotonic() - started,
            bytes=self._engine.bytes_sent,
            phases=dict(self._client.seconds),
        )
