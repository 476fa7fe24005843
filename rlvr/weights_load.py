"""Putting checkpoint-format weights into a running vLLM model.

vLLM's own way (`LayerwiseLoader`) rebuilds each layer as if loading a checkpoint: it works for
every architecture. On CPU that costs two copies and much Python, so where a model's layers are
simple enough (`RepackLoader`), each linear layer is packed straight from the received bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

from rlvr.errors import WeightTransferError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

Shapes = dict[str, list[int]]
Weights = Sequence[tuple[str, Tensor]]

REPACKABLE = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
"""Architectures whose parameters are the checkpoint's, fused but not otherwise transformed."""

logger = init_logger("vllm.rlvr")


class Loader(Protocol):
    """One update: `start`, any number of `load`, `finish`. Generation is paused meanwhile."""

    def start(self) -> None: ...

    def load(self, weights: Weights, pool: Executor) -> None:
        """Take tensors in, in any order. Their memory is only valid during the call."""
        ...

    def restart(self) -> None:
        """Forget what was loaded since `start`; all tensors will come again."""
        ...

    def finish(self) -> None: ...


def make_loader(model: Any, vllm_config: VllmConfig, shapes: Shapes) -> Loader:
    """The fastest loader that fits the model and the tensors the learner will send."""
    if (
        current_platform.is_cpu()
        and type(model).__name__ in REPACKABLE
        and vllm_config.parallel_config.world_size == 1
        and vllm_config.quant_config is None
        and vllm_config.lora_config is None
    ):
        loader = RepackLoader(model, shapes)
        if loader.covers(shapes):
            return loader
    logger.info("weights of %s are loaded layer by layer, vLLM's general way", type(model).__name__)
    return LayerwiseLoader(model, vllm_config.model_config)


class LayerwiseLoader:
    """vLLM's layer-wise reload (https://docs.vllm.ai/en/latest/training/layerwise/)."""

    def __init__(self, model: Any, model_config: Any) -> None:
        self._model = model
        self._model_config = model_config
        self._device = next(model.parameters()).device

    def start(self) -> None:
        initialize_layerwise_reload(self._model)

    def load(self, weights: Weights, pool: Executor) -> None:
        # Layers that are not complete yet keep what they were given: it must be a copy.
        self._model.load_weights(
            (name, tensor.to(self._device, copy=True)) for name, tensor in weights
        )

    def restart(self) -> None:
        raise WeightTransferError(
            "an interrupted update cannot be repeated on this model; restart the worker"
        )

    def finish(self) -> None:
        finalize_layerwise_reload(self._model, self._model_config)
        if current_platform.is_cpu():
            repack_heads(self._model)


def repack_heads(model: torch.nn.Module) -> None:
    """Pack the output layer anew: tied to the embedding it gets no weights of its own, and vLLM's
    CPU build would go on using the packed copy of the old ones."""
    for head in heads(model):
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def heads(model: torch.nn.Module) -> list[ParallelLMHead]:
    return [layer for layer in model.modules() if isinstance(layer, ParallelLMHead)]


class RepackLoader:
    """CPU, one process for the model, no quantization: pack each linear layer directly."""

    def __init__(self, model: Any, shapes: Shapes) -> None:
        self._heads = heads(model)
        # Where each of the learner's tensors goes: a plain copy, or part `index` of a packed layer.
        self._copies: dict[str, Tensor] = {}
        self._linears: dict[str, tuple[str, int]] = {}
        self._layers: dict[str, tuple[LinearBase, int]] = {}
        self._waiting: dict[str, dict[int, Tensor]] = {}
        fused: dict[str, list[str]] = model.packed_modules_mapping
        for prefix, layer in model.named_modules():
            parent, _, own = prefix.rpartition(".")
            if (
                isinstance(layer, LinearBase)
                and type(layer.quant_method) is UnquantizedLinearMethod
            ):
                parts = [f"{parent}.{part}" for part in fused.get(own, [own])]
                self._add_linear(prefix, layer, parts, shapes)
            else:
                for name, parameter in layer.named_parameters(recurse=False):
                    self._copies.setdefault(f"{prefix}.{name}", parameter.data)
        if model.config.tie_word_embeddings:
            self._copies.pop("lm_head.weight", None)

    def _add_linear(self, prefix: str, layer: LinearBase, parts: list[str], shapes: Shapes) -> None:
        self._layers[prefix] = (layer, len(parts))
        bias = dict(layer.named_parameters(recurse=False)).get("bias")
        start = 0
        for index, part in enumerate(parts):
            self._linears[f"{part}.weight"] = (prefix, index)
            if bias is not None and f"{part}.bias" in shapes:
                rows = shapes[f"{part}.bias"][0]
                self._copies[f"{part}.bias"] = bias.data[start : start + rows]
                start += rows

    def covers(self, shapes: Shapes) -> bool:
        """Whether the tensors are exactly those of the model, in number, name and shape."""
        if shapes.keys() != self._linears.keys() | self._copies.keys():
            return False
        rows = dict.fromkeys(self._layers, 0)
        for name, (prefix, _) in self._linears.items():
            layer, _ = self._layers[prefix]
            if shapes[name][1] != layer.input_size:
                return False
            rows[prefix] += shapes[name][0]
        return all(
            rows[prefix] == layer.output_size for prefix, (layer, _) in self._layers.items()
        ) and all(
            # An embedding may be padded with further rows.
            shapes[name][0] <= target.shape[0] and shapes[name][1:] == list(target.shape[1:])
            for name, target in self._copies.items()
        )

    def start(self) -> None:
        self._waiting.clear()

    def restart(self) -> None:
        self._waiting.clear()

    def load(self, weights: Weights, pool: Executor) -> None:
        jobs: list[Callable[[], object]] = []
        for name, tensor in weights:
            if name in self._copies:
                jobs.append(partial(self._copy, name, tensor))
                continue
            prefix, index = self._linears[name]
            layer, count = self._layers[prefix]
            parts = self._waiting.setdefault(prefix, {})
            parts[index] = tensor
            if len(parts) == count:
                del self._waiting[prefix]
                jobs.append(partial(_pack, layer, [parts[i] for i in range(count)]))
        _run(jobs, pool)
        for parts in self._waiting.values():
            for index, tensor in parts.items():
                parts[index] = tensor.clone()

    def _copy(self, name: str, tensor: Tensor) -> None:
        target = self._copies[name]
        target[: tensor.shape[0]].copy_(tensor)
        for head in self._heads:
            weight = head.get_parameter("weight")  # its own, or the embedding's
            if weight.data_ptr() == target.data_ptr():
                dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    def finish(self) -> None:
        pass


def _pack(layer: LinearBase, parts: list[Tensor]) -> None:
    layer.weight = torch.nn.Parameter(_join(parts), requires_grad=False)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    if layer.weight.numel():  # this kernel does not pack: keep the weights themselves
        layer.weight.data = layer.weight.data.clone()


def _join(parts: list[Tensor]) -> Tensor:
    """The parts stacked by rows; without a copy where they already lie one behind the other."""
    end = parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != end:
            return torch.cat(parts)
        end += part.nbytes
    first = parts[0]
    return first.as_strided((sum(len(part) for part in parts), first.shape[1]), first.stride())


def _run(jobs: Iterable[Callable[[], object]], pool: Executor) -> None:
    for future in [pool.submit(job) for job in jobs]:
        future.result()
