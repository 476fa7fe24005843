"""The `ray` weight-transfer backend, vLLM side. Runs in vLLM's worker process: imports no ray."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from mmap import MAP_POPULATE, MAP_SHARED, mmap
from typing import Any

import torch
import xxhash
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rlvr.errors import WeightTransferError
from rlvr.memory import return_freed_memory
from rlvr.weights_load import Loader, make_loader


@dataclass
class RayInitInfo(WeightTransferInitInfo):
    shapes: dict[str, list[int]]
    """Name and shape of every tensor that each update will bring, as the learner names them."""


@dataclass
class RayUpdateInfo(WeightTransferUpdateInfo):
    """One chunk of an update."""

    version: int
    path: str
    """The rollout actor's shared memory, as a path this process can open."""
    nbytes: int
    """Size of the chunk."""
    dtype: str
    """Name of the torch dtype, the same for all tensors."""
    tensors: list[Any]
    """(name, offset in bytes, size in bytes, checksum) of each tensor. The checksum is the 64-bit
    XXH3 of the bytes: at memory speed it sees every flipped bit and, unlike a sum of words, every
    reordering; being taken tensor by tensor, it also sees two tensors swapped."""


class RayWeightTransferEngine(WeightTransferEngine[RayInitInfo, RayUpdateInfo]):
    """Checks every tensor against the learner's checksum, then loads it.

    A chunk in which any checksum fails changes nothing in the model, and ends the update.
    """

    init_info_cls = RayInitInfo
    update_info_cls = RayUpdateInfo

    def init_transfer_engine(self, init_info: RayInitInfo) -> None:
        self._shapes = init_info.shapes
        self._loader: Loader = make_loader(self.model, self.vllm_config, self._shapes)
        return_freed_memory()  # what loading and warming up the engine left behind
        self._mapped: dict[str, mmap] = {}
        self._received: set[str] = set()
        self._version: int | None = None
        # Each thread works on tensors of its own, with a one-thread OpenMP team: packing a layer
        # is too short to be split.
        self._pool = ThreadPoolExecutor(
            torch.get_num_threads(), initializer=torch._C.set_num_threads, initargs=(1,)
        )

    def start_weight_update(self) -> None:
        self._received.clear()
        self._version = None
        self._loader.start()

    def receive_weights(self, update_info: RayUpdateInfo) -> None:
        if self._version is None:
            self._version = update_info.version
        elif self._received & {name for name, *_ in update_info.tensors}:
            self._received.clear()  # the learner has begun anew, after another worker failed
            self._loader.restart()
        memory = torch.frombuffer(
            self._map(update_info.path, update_info.nbytes), dtype=torch.uint8
        )
        dtype = getattr(torch, update_info.dtype)

        def check(item: tuple[str, int, int, int]) -> tuple[str, torch.Tensor]:
            name, offset, nbytes, checksum = item
            data = memory[offset : offset + nbytes]
            if xxhash.xxh3_64_intdigest(data.numpy().data) != checksum:
                raise WeightTransferError(
                    f"tensor {name!r} was corrupted on its way (its checksum is not the learner's)"
                )
            return name, data.view(dtype).view(self._shapes[name])

        weights = list(self._pool.map(check, update_info.tensors))
        self._loader.load(weights, self._pool)
        self._received.update(name for name, _ in weights)

    def _map(self, path: str, nbytes: int) -> mmap:
        mapped = self._mapped.get(path)
        if mapped is None or len(mapped) < nbytes:
            fd = os.open(path, os.O_RDWR)
            mapped = mmap(fd, os.fstat(fd).st_size, flags=MAP_SHARED | MAP_POPULATE)
            os.close(fd)
            self._mapped[path] = mapped
        return mapped

    def finish_weight_update(self) -> None:
        missing = sorted(self._shapes.keys() - self._received)
        if missing:
            raise WeightTransferError(
                f"{len(missing)} of {len(self._shapes)} tensors did not arrive, {missing[0]!r} "
                "among them"
            )
        self._loader.finish()

    def shutdown(self) -> None:
        pass
