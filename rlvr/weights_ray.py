"""The `ray` weight-transfer backend, learner side: through Ray's object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, ClassVar

import numpy as np
import ray
import torch
import xxhash
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)


class SharedBuffer:
    """Anonymous shared memory that the engine's worker process maps by path."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("rlvr-weights")
        self._array = np.empty(0, dtype=np.uint8)

    def write(self, data: np.ndarray) -> str:
        if self._array.nbytes < data.nbytes:
            os.ftruncate(self._fd, data.nbytes)
            self._array = np.frombuffer(mmap(self._fd, data.nbytes), dtype=np.uint8)
        self._array[: data.nbytes] = data
        return f"/proc/{os.getpid()}/fd/{self._fd}"


class RayRolloutHandle:
    """A `RolloutHandle` over a Ray actor made from `RolloutEngine`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor

    def call(self, method: str, *args: Any) -> Future[Any]:
        return getattr(self._actor, method).remote(*args).future()


@dataclass
class RayTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "ray"
    dtype: torch.dtype = torch.bfloat16
    chunk_bytes: int = field(default=512 * 2**20)


class RayTrainerWeightTransferEngine(TrainerWeightTransferEngine[RayTrainerInitInfo]):
    """Learner side: cast into one flat buffer, checksum, `ray.put`, tell every worker."""

    init_info_cls = RayTrainerInitInfo

    def __init__(
        self,
        init_info: RayTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=init_info.is_sender)
        self._dtype = init_info.dtype
        self._chunk_bytes = init_info.chunk_bytes
        self.bytes_sent = 0

    @classmethod
    def trainer_init(
        cls,
        init_info: RayTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> RayTrainerWeightTransferEngine:
        if source is None:
            raise ValueError("the ray backend needs a WeightSource")
        if init_info.is_sender:
            client.init_weight_transfer_engine({})
        return cls(init_info, client=client, source=source)

    def send_weights(self) -> None:
        assert self.source is not None
        self.bytes_sent = 0
        if self.is_sender:
            self.client.start_weight_update()
        for tensors, buffer in self._chunks(self.source):
            if self.is_sender:
                ref = ray.put(buffer)
                self.client.update_weights({"tensors": tensors, "buffer": ref})
                self.bytes_sent += buffer.nbytes
        if self.is_sender:
            self.client.finish_weight_update()

    def _chunks(self, source: WeightSource) -> Iterator[tuple[list[Any], np.ndarray]]:
        pieces: list[torch.Tensor] = []
        tensors: list[Any] = []
        offset = 0
        for name, tensor in source:
            data = tensor.detach().to(self._dtype).contiguous().view(-1).view(torch.uint8)
            if pieces and offset + data.nbytes > self._chunk_bytes:
                yield tensors, torch.cat(pieces).numpy()
                pieces, tensors, offset = [], [], 0
            tensors.append(
                (
                    name,
                    str(self._dtype).removeprefix("torch."),
                    list(tensor.shape),
                    offset,
                    data.nbytes,
                    xxhash.xxh3_64_intdigest(data.numpy()),
                )
            )
            pieces.append(data)
            offset += data.nbytes
        if pieces:
            yield tensors, torch.cat(pieces).numpy()
