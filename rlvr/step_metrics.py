"""Figures of one learner step, added up over its micro-batches and over all ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from rlvr.loss import LossOutput, LossSettings

MEANS = {
    "ratio": "ratio/mean",
    "clipped_low": "clip/low",
    "clipped_high": "clip/high",
    "sampler_ratio": "mismatch/ratio_mean",
    "sampler_kl_k1": "mismatch/kl_k1",
    "sampler_kl_k3": "mismatch/kl_k3",
    "entropy": "policy/entropy",
    "ref_kl": "kl/reference",
}
IMPORTANCE_MEANS = {
    "importance_weight": "importance/mean",
    "importance_capped": "importance/capped",
}
MAXIMA = {"ratio": "ratio/max", "sampler_ratio": "mismatch/ratio_max"}
"""What `rlvr.loss` calls its sums and maxima -> the name of the metric."""


class StepTotals:
    """Sums and maxima of a step, over its micro-batches and all ranks."""

    def __init__(self, world_size: int, device: torch.device) -> None:
        self._world_size = world_size
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(self, output: LossOutput) -> None:
        for name, value in output.sums.items():
            self._sums[name] = self._sums.get(name, 0) + value
        for name, value in output.maxima.items():
            self._maxima[name] = torch.maximum(self._maxima.get(name, value), value)

    def _reduced(
        self, values: dict[str, Tensor], names: Sequence[str], operation: dist.ReduceOp.RedOpType
    ) -> dict[str, float]:
        empty = 0.0 if operation == dist.ReduceOp.SUM else -math.inf
        tensor = torch.tensor(
            [float(values.get(name, empty)) for name in names],
            dtype=torch.float64,
            device=self._device,
        )
        if self._world_size > 1:
            dist.all_reduce(tensor, operation)
        return dict(zip(names, tensor.tolist(), strict=True))

    def loss(self) -> float:
        return self._reduced(self._sums, ["loss"], dist.ReduceOp.SUM)["loss"]

    def metrics(self, settings: LossSettings, num_minibatches: int) -> dict[str, float]:
        """Means and maxima over the trained tokens; only the loss when there are none."""
        names = ["loss", "num_tokens", *MEANS, *IMPORTANCE_MEANS]
        sums = self._reduced(self._sums, names, dist.ReduceOp.SUM)
        maxima = self._reduced(self._maxima, list(MAXIMA), dist.ReduceOp.MAX)
        num_tokens = sums["num_tokens"]
        found = {"loss": sums["loss"] / num_minibatches, "tokens/trained": num_tokens}
        if not num_tokens:
            return found
        means = dict(MEANS)
        if not settings.kl_in_loss:
            del means["ref_kl"]
        if settings.importance != "none":
            means |= IMPORTANCE_MEANS
        found |= {metric: sums[name] / num_tokens for name, metric in means.items()}
        found |= {metric: maxima[name] for name, metric in MAXIMA.items()}
        return found


class PhaseTimer:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        self._seconds[phase] = self._seconds.get(phase, 0.0) + elapsed

    def metrics(self) -> dict[str, float]:
        return {f"time/{phase}_s": seconds for phase, seconds in self._seconds.items()}
