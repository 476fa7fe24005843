"""The learner: one optimizer step from a batch of scored groups.

A plain class, one instance for each rank. With several ranks every method is collective: call it on
all of them, with the same arguments.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rlvr.batch import MicroBatch, Sample, pack
from rlvr.config import RunConfig
from rlvr.errors import CheckpointError, LearnerError
from rlvr.loss import LossOutput, LossSettings, aggregation_weights, policy_loss, sequence_kl
from rlvr.metrics import PhaseTimer
from rlvr.optim import MasterWeights, Optimizer, learning_rate
from rlvr.policy import Policy, full_tensor, load_policy, published_weights, shard, source_dtype
from rlvr.types import Batch, Group

TokenKey = tuple[int, int]
"""Position of a group in its batch, and of a completion in its group."""

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


class Learner:
    """Owns the policy, the reference model if there is one, and the optimizer.

    Args:
        config: of the run.
        model_dir: folder of the initial weights.
        rank: of this process.
        world_size: number of learner processes.
        init_method: rendezvous for torch.distributed (`tcp://host:port`); needed for more than one.

    Raises:
        ModelError: the model cannot be loaded, or `packing = "tree"` does not suit it.
    """

    def __init__(
        self,
        config: RunConfig,
        model_dir: str | Path,
        rank: int = 0,
        world_size: int = 1,
        init_method: str | None = None,
    ) -> None:
        settings = config.learner
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.device = _device(settings.device, rank)
        if world_size > 1:
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, init_method=init_method, rank=rank, world_size=world_size
            )
        self._loss_settings = LossSettings(
            **config.algorithm.model_dump(include={f.name for f in fields(LossSettings)})
        )
        self._model_dir = Path(model_dir)
        self._dtype = getattr(torch, settings.compute_dtype)
        self.policy = load_policy(config, model_dir, torch.float32).to(self.device)
        if world_size > 1:
            shard(self.policy, self._dtype)
        self._masters = MasterWeights(self.policy, self._dtype if world_size == 1 else None)
        self._optimizer = Optimizer(self._masters, settings)
        self._reference = self._load_reference()

    def _load_reference(self) -> Policy | None:
        if self.config.algorithm.kl_coef == 0 or self.config.model.lora is not None:
            return None
        reference = load_policy(self.config, self._model_dir, self._dtype).to(self.device)
        if self.world_size > 1:
            shard(reference, self._dtype)
        return reference.requires_grad_(False)

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch: `num_minibatches` optimizer steps.

        Completions with advantage 0 have no gradient unless there is a KL or entropy term. They are
        then left out of the computation, and of the figures over trained tokens, but count in the
        aggregation's denominator all the same. When nothing at all is left, the optimizer still
        takes its step, with a gradient of zero.

        Returns:
            Metrics by the names of `rlvr.metrics`.

        Raises:
            LearnerError: the loss or its gradient is not finite; the weights are unchanged.
        """
        timer = PhaseTimer()
        with timer("pack"):
            minibatches = [self._pack(samples) for samples in self._samples(batch)]
        old = {}
        if len(minibatches) > 1 and self._loss_settings.old_logprobs == "learner":
            with timer("forward"):
                old = self._logprobs([micro for micros in minibatches for micro in micros])
        lr = learning_rate(batch.step, self.config.num_steps, self.config.learner)
        totals = _Totals(self.world_size, self.device)
        norms = []
        for micros in minibatches:
            for micro in micros:
                with timer("forward"):
                    output = self._loss(micro, old)
                with timer("backward"):
                    (output.loss * self.world_size).backward()  # FSDP takes the mean over ranks
                totals.add(output)
            with timer("optimizer"):
                norms.append(self._update(batch.step, lr, totals))
        return {
            **totals.metrics(self._loss_settings, len(minibatches)),
            **self._packing_metrics(minibatches),
            **timer.take(),
            "grad_norm": sum(norms) / len(norms),
            "lr": lr,
        }

    def _samples(self, batch: Batch) -> list[list[Sample]]:
        """What to compute, for each minibatch."""
        algorithm = self.config.algorithm
        keep_zero = algorithm.entropy_coef > 0 or self._loss_settings.kl_in_loss
        num = min(self.config.learner.num_minibatches, max(1, len(batch.groups)))
        bounds = [len(batch.groups) * index // num for index in range(num + 1)]
        minibatches = []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            members = [
                (group, member, advantage)
                for group in range(start, stop)
                for member, advantage in enumerate(batch.advantages[group])
                if advantage is not None
                and batch.groups[group].rollouts[member].completion.token_ids
            ]
            weights = aggregation_weights(
                [len(batch.groups[g].rollouts[m].completion.token_ids) for g, m, _ in members],
                algorithm.aggregation,
                self.config.rollout.max_tokens,
            )
            minibatches.append(
                [
                    _sample(batch.groups[group], group, member, advantage, weight)
                    for (group, member, advantage), weight in zip(members, weights, strict=True)
                    if keep_zero or advantage != 0
                ]
            )
        return minibatches

    def _pack(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        micros = pack(
            samples,
            packing=self.config.learner.packing,
            max_tokens=self.config.learner.max_tokens_per_microbatch,
            num_ranks=self.world_size,
            rank=self.rank,
        )
        return [micro.to(self.device) for micro in micros]

    def _loss(self, micro: MicroBatch, old: dict[TokenKey, Tensor]) -> LossOutput:
        settings = self._loss_settings
        logprobs, place_entropy = self.policy(micro)
        if not micro.samples:  # this rank has no more work, but takes part in the collectives
            return LossOutput(logprobs.sum() + place_entropy.sum(), {}, {})
        entropy = place_entropy[micro.place_of_token]
        return policy_loss(
            settings,
            logprobs=logprobs,
            sampler_logprobs=micro.sampler_logprobs,
            advantages=micro.advantages,
            weights=micro.weights,
            sequence_index=micro.sequence_index,
            old_logprobs=torch.cat([old[_key(s)] for s in micro.samples]) if old else None,
            ref_logprobs=self._reference_forward(micro) if settings.kl_in_loss else None,
            entropy=entropy if settings.entropy_coef > 0 else entropy.detach(),
        )

    def _update(self, step: int, lr: float, totals: _Totals) -> float:
        """One optimizer step; the gradient's norm before clipping."""
        norm = self._optimizer.gradient_norm()
        loss = totals.loss()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise LearnerError(
                f"step {step}: the loss is {loss} and its gradient's norm {norm}, which must be "
                "finite; the weights were not changed. Continue from the last checkpoint with a "
                "smaller learner.lr, or look for the cause in mismatch/kl_k1 and ratio/max of the "
                "steps before"
            )
        self._optimizer.step(lr, norm)
        return norm

    @torch.no_grad()
    def _reference_forward(self, micro: MicroBatch) -> Tensor:
        if self._reference is not None:
            return self._reference(micro).logprobs
        with self.policy.adapter_disabled():
            return self.policy(micro).logprobs

    @torch.no_grad()
    def _logprobs(
        self, micros: Sequence[MicroBatch], *, reference: bool = False
    ) -> dict[TokenKey, Tensor]:
        """Log-probabilities by completion, of this rank's micro-batches."""
        found = {}
        for micro in micros:
            logprobs = self._reference_forward(micro) if reference else self.policy(micro).logprobs
            for sample, values in zip(micro.samples, micro.split(logprobs), strict=True):
                found[_key(sample)] = values
        return found

    def logprobs(
        self, groups: Sequence[Group], *, reference: bool = False
    ) -> list[list[list[float]]]:
        """[P][G][T] Log-probability of every completion token under the policy, or the reference
        model (`kl_coef > 0` only)."""
        micros = self._pack(_all_samples(groups))
        found = {k: v.tolist() for k, v in self._logprobs(micros, reference=reference).items()}
        found = self._from_all_ranks(found)
        return [
            [found.get((group, member), []) for member in range(len(groups[group].rollouts))]
            for group in range(len(groups))
        ]

    def kl_penalties(self, groups: Sequence[Group]) -> list[list[float]]:
        """[P][G] KL from the policy to the reference model, summed over each completion's tokens,
        by `algorithm.kl_estimator`; nats."""
        found: dict[TokenKey, float] = {}
        for micro in self._pack(_all_samples(groups)):
            with torch.no_grad():
                policy, reference = self.policy(micro).logprobs, self._reference_forward(micro)
            kl = sequence_kl(
                policy,
                reference,
                micro.sequence_index,
                len(micro.samples),
                self.config.algorithm.kl_estimator,
            )
            found |= zip(map(_key, micro.samples), kl.tolist(), strict=True)
        found = self._from_all_ranks(found)
        return [
            [found.get((group, member), 0.0) for member in range(len(groups[group].rollouts))]
            for group in range(len(groups))
        ]

    def _from_all_ranks[T](self, found: dict[TokenKey, T]) -> dict[TokenKey, T]:
        if self.world_size == 1:
            return found
        parts: list[dict[TokenKey, T]] = [{}] * self.world_size
        dist.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}
