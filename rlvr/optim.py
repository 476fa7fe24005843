"""fp32 master weights, AdamW and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlvr.config import LearnerConfig


def learning_rate(step: int, num_steps: int, config: LearnerConfig) -> float:
    """The learning rate of `step` (0, 1, ... num_steps - 1).

    Linear warm-up reaches `lr` at step `warmup_steps`. Then `linear` and `cosine` fall to
    `min_lr_ratio * lr` at the last step, and `constant` stays.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps))
    share = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * share)


class MasterWeights:
    """The trained weights in fp32, next to the module's own in a smaller type.

    The module computes in bf16, with bf16 weights; its gradients are added up in fp32 on the
    masters, which the optimizer updates; then the module's weights are rounded from them anew.
    Where the module itself holds fp32 weights (fp32 compute, or FSDP2, which casts when it
    gathers), they are the masters.

    Args:
        module: holds fp32 weights; those that require gradients are trained.
        compute_dtype: what the module's weights are converted to, all of them; null leaves them.
    """

    def __init__(self, module: nn.Module, compute_dtype: torch.dtype | None) -> None:
        self._working = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.named = dict(self._working)
        """Name in the module -> fp32 master."""
        if compute_dtype is None or compute_dtype == torch.float32:
            return
        for name, working in self._working.items():
            self.named[name] = nn.Parameter(working.detach().float())
            working.register_post_accumulate_grad_hook(self._accumulate(self.named[name]))
        for parameter in module.parameters():
            parameter.data = parameter.data.to(compute_dtype)

    @staticmethod
    def _accumulate(master: nn.Parameter) -> Any:
        def hook(working: Tensor) -> None:
            assert working.grad is not None
            if master.grad is None:
                master.grad = working.grad.float()
            else:
                master.grad.add_(working.grad)
            working.grad = None

        return hook

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.named.values())

    @torch.no_grad()
    def publish(self) -> None:
        """Round the module's weights from the masters."""
        for name, working in self._working.items():
            if working is not self.named[name]:
                working.copy_(self.named[name])


class Optimizer:
    """AdamW over master weights, with gradients clipped to a global norm."""

    def __init__(self, masters: MasterWeights, config: LearnerConfig) -> None:
        self._masters = masters
        self._config = config
        self._adamw = torch.optim.AdamW(
            masters.named.values(),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def gradient_norm(self) -> float:
        """Global norm over all ranks; a weight that got no gradient counts as zero."""
        for master in self._masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        norm = nn.utils.get_total_norm([m.grad for m in self._masters if m.grad is not None])
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def step(self, lr: float, gradient_norm: float) -> None:
        """Clip, update the weights and clear the gradients."""
        if gradient_norm > self._config.max_grad_norm:
            scale = self._config.max_grad_norm / (gradient_norm + 1e-6)
            for master in self._masters:
                assert master.grad is not None
                master.grad.mul_(scale)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self._adamw.zero_grad()
        self._masters.publish()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Of this rank: master weights and moments by name. References, not copies."""
        state: dict[str, dict[str, Tensor]] = {}
        for name, master in self._masters.named.items():
            moments = self._adamw.state.get(master, {})
            state[name] = {"master": _local(master.detach())}
            state[name] |= {key: _local(value) for key, value in moments.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `state_dict` gave, bit for bit.

        Raises:
            KeyError: a weight is missing in `state`.
        """
        for name, master in self._masters.named.items():
            saved = dict(state[name])
            _local(master).copy_(saved.pop("master"))
            self._adamw.state[master] = {}
            for key, value in saved.items():
                if key == "step":
                    self._adamw.state[master][key] = value.clone()
                else:
                    moment = torch.zeros_like(master)
                    _local(moment).copy_(value)
                    self._adamw.state[master][key] = moment
        self._masters.publish()


def _local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
