"""The `ray` weight-transfer backend, learner side: through Ray's object store.

The weights travel in chunks, several at once: while the rollout engines load one chunk, their
actors copy the next out of the object store and the learner makes the one after.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import ray
import torch
import xxhash
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    layerwise_groups,
)

PHASES = ("gather", "checksum", "put", "wait", "finish")
ALIGNMENT = 64
"""Bytes; the width of a cache line and of the widest CPU registers."""


@dataclass
class RayTrainerInitInfo(TrainerInitInfo):
    """`rank` 0 sends; other ranks only take part in gathering the weights."""

    backend: ClassVar[str] = "ray"
    chunk_bytes: int = 32 * 2**20
    """Weights are sent in chunks of about this size, cut between decoder layers."""
    max_chunks_in_flight: int = 2
    """Bounds the object store's use to this many chunks, and one being made."""


class RayTrainerWeightTransferEngine(TrainerWeightTransferEngine[RayTrainerInitInfo]):
    """Checksum every tensor, put chunks into the object store, have every worker load them."""

    init_info_cls = RayTrainerInitInfo

    def __init__(
        self,
        init_info: RayTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=init_info.is_sender)
        self._init_info = init_info
        self._plan = plan_chunks(source.metadata(), init_info.chunk_bytes)
        self.seconds: dict[str, float] = {}
        """Of the last `send_weights`, by what the learner's thread was doing."""

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
        engine = cls(init_info, client=client, source=source)
        if init_info.is_sender:
            shapes = {meta.name: list(meta.shape) for meta in source.metadata()}
            client.init_weight_transfer_engine({"shapes": shapes})
        return engine

    def send_weights(self) -> None:
        """One update. The versions and the deadline are the client's business."""
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        self.seconds = dict.fromkeys(PHASES, 0.0)
        in_flight: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._init_info.max_chunks_in_flight) as pool:
            started = pool.submit(self.client.start_weight_update)
            for info, arrays in self._chunks():
                with self._timed("put"):
                    info["buffer"] = ray.put(arrays)
                in_flight.append(pool.submit(self._update, started, info))
                del info
                if len(in_flight) > self._init_info.max_chunks_in_flight:
                    with self._timed("wait"):
                        in_flight.popleft().result()
            with self._timed("wait"):
                for future in in_flight:
                    future.result()
        with self._timed("finish"):
            self.client.finish_weight_update()

    def _update(self, started: Future[None], info: dict[str, Any]) -> None:
        started.result()
        self.client.update_weights(info)

    def _chunks(self) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
        """Description and bytes of one chunk after the other."""
        assert self.source is not None
        weights = iter(self.source)
        for metas in self._plan:
            tensors = []
            arrays = []
            offset = 0
            for meta in metas:
                with self._timed("gather"):
                    name, tensor = next(weights)
                    array = _bytes(tensor)
                if name != meta.name:
                    raise ValueError(f"the source yielded {name!r} where {meta.name!r} was due")
                with self._timed("checksum"):
                    tensors.append(
                        (name, offset, array.nbytes, xxhash.xxh3_64_intdigest(array.data))
                    )
                arrays.append(array)
                offset += _padded(meta)
            dtype = str(metas[0].dtype).removeprefix("torch.")
            yield {"nbytes": offset, "dtype": dtype, "tensors": tensors}, arrays

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _padded(meta: ParamMeta) -> int:
    nbytes = math.prod(meta.shape) * meta.dtype.itemsize
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan_chunks(metas: Sequence[ParamMeta], chunk_bytes: int) -> list[list[ParamMeta]]:
    """Split parameters, in order, into chunks of about `chunk_bytes`, cut between decoder layers
    (a layer, or a single parameter, that is larger makes a chunk of its own)."""
    chunks: list[list[ParamMeta]] = []
    sizes = [chunk_bytes]
    layer_of = {
        name: index
        for index, names in enumerate(layerwise_groups([meta.name for meta in metas]))
        for name in names
    }
    for _, group in itertools.groupby(metas, key=lambda meta: layer_of[meta.name]):
        layer = list(group)
        nbytes = sum(_padded(meta) for meta in layer)
        if sizes[-1] + nbytes > chunk_bytes:
            chunks.append([])
            sizes.append(0)
        chunks[-1] += layer
        sizes[-1] += nbytes
    return chunks
