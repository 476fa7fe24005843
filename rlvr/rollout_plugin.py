"""What our rollout engines change inside vLLM's processes, through its plugin mechanism. Other
users of vLLM in the same environment are left alone."""

# No `from __future__ import annotations`: vLLM makes operator schemas from these signatures.
import ctypes
import os
import signal
from typing import Any

import torch
from torch import Tensor

ENGINE_PARENT = "RLVR_ENGINE_PARENT"
"""Environment variable: process id of the rollout engine, for the processes it starts."""
PROVIDER = "rlvr_cpu"
"""Name of our kernels in vLLM's operator priorities."""
CPU_OP_PRIORITY = {"rms_norm": [PROVIDER], "fused_add_rms_norm": [PROVIDER]}
MAX_SPIN_S = 0.0005
"""How long vLLM's processes poll their shared message queue before they sleep on it."""
RECHECK_MS = 5
"""How long they sleep before they look at it again, notified or not."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def install() -> None:
    """Called in every process that loads vLLM; does nothing outside our engines."""
    parent = os.environ.get(ENGINE_PARENT)
    if parent is None:
        return
    if os.getppid() == int(parent):
        _die_with_parent(int(parent))
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _use_cpu_kernels()


def _die_with_parent(parent: int) -> None:
    """vLLM's scheduler process would outlive a killed parent (its own children do not outlive it).
    The signal comes when the thread that started us ends: the engine's event loop."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _use_cpu_kernels() -> None:
    """Make eager mode on CPU as fast as compiled mode.

    vLLM's C++ norms, which it reserves for GPUs though its CPU build has them, take 14 us where the
    default takes 137 us (96 x 576). And the rank of each sampled token, which we do not read, is
    left out: vLLM compiles that count with a C++ compiler at the first request (15 s), and runs it
    over all logits at every step. Its processes sleep when they wait for each other, where they
    would spin for up to a second on cores that the model needs (a tenth more tokens on 2 cores).
    """
    from vllm import ir
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.sample import sampler

    if PROVIDER not in ir.ops.rms_norm.impls:  # vLLM may load plugins twice
        ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_plain)(_rms_norm)
        ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_plain_add, inplace=True)(
            _fused_add_rms_norm
        )
    sampler.batched_count_greater_than = _no_ranks  # pyright: ignore[reportPrivateImportUsage]

    class SleepyCondition(shm_broadcast.SpinCondition):
        """Sleeps soon, and looks again soon: a notification is lost now and then, and vLLM's own
        reader, which seldom sleeps, would not look again for up to a minute."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.busy_loop_s = MAX_SPIN_S

        def wait(self, timeout_ms: int | None = None) -> None:
            super().wait(RECHECK_MS if timeout_ms is None else min(timeout_ms, RECHECK_MS))

    shm_broadcast.SpinCondition = SleepyCondition


def _no_ranks(logprobs: Tensor, values: Tensor) -> Tensor:
    return torch.zeros(len(logprobs), dtype=torch.int64)


def _plain(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype


def _plain_add(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    contiguous = x.is_contiguous() and x_residual.is_contiguous()
    return contiguous and _plain(x, weight, epsilon, variance_size)


def _rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> Tensor:
    # The kernel takes rows that lie one behind the other, which the heads of fused queries and
    # keys do not; it would read the wrong numbers without a word.
    output = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(output, x.contiguous(), weight, epsilon)
    return output


def _fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
