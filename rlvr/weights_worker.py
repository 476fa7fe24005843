"""The `ray` weight-transfer backend, vLLM side. Runs in vLLM's worker process: imports no ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from mmap import PROT_READ, mmap
from typing import Any

import torch
import xxhash
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from rlvr.errors import WeightTransferError


@dataclass
class RayInitInfo(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class RayUpdateInfo(WeightTransferUpdateInfo):
    path: str
    """Shared memory of the actor, as a path this process can open."""
    tensors: list[Any]
    """(name, dtype, shape, offset, nbytes, xxh3 of the bytes) of each tensor."""


class RayWeightTransferEngine(WeightTransferEngine[RayInitInfo, RayUpdateInfo]):
    init_info_cls = RayInitInfo
    update_info_cls = RayUpdateInfo

    def init_transfer_engine(self, init_info: RayInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: RayUpdateInfo) -> None:
        fd = os.open(update_info.path, os.O_RDONLY)
        memory = memoryview(mmap(fd, 0, prot=PROT_READ))
        os.close(fd)
        weights = []
        for name, dtype, shape, offset, nbytes, checksum in update_info.tensors:
            data = memory[offset : offset + nbytes]
            if xxhash.xxh3_64_intdigest(data) != checksum:
                raise WeightTransferError(
                    f"tensor {name!r} was corrupted on its way: its checksum differs from the "
                    "learner's"
                )
            tensor = torch.frombuffer(data, dtype=getattr(torch, dtype)).view(*shape)
            weights.append((name, tensor))
        self.model.load_weights(weights)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        # An output layer tied to the embedding gets no weights of its own, and vLLM's CPU build
        # keeps a packed copy of it, which would stay the old one.
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        pass
