"""The learner: one optimizer step from a batch of scored groups.

A plain class, one instance for each rank. With several ranks every method is collective: call it on
all of them, with the same arguments.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from rlvr.batch import MicroBatch, Sample, pack
from rlvr.config import RunConfig
from rlvr.errors import CheckpointError, LearnerError
from rlvr.loss import LossOutput, LossSettings, aggregation_weights, policy_loss, sequence_kl
from rlvr.memory import keep_freed_memory, return_freed_memory
from rlvr.optim import MasterWeights, Optimizer, learning_rate
from rlvr.policy import Policy, check_logprobs, load_policy, shard
from rlvr.step_metrics import PhaseTimer, StepTotals
from rlvr.types import Batch, Group

T = TypeVar("T")
TokenKey = tuple[int, int]
"""Position of a group in its batch, and of a completion in its group."""


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
        # Ray would leave the process with one thread.
        torch.set_num_threads(config.num_threads("learner", len(os.sched_getaffinity(0))))
        torch.manual_seed(config.seed)
        keep_freed_memory()
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
        self.policy = load_policy(config, self._model_dir, torch.float32, self.device)
        check_logprobs(self.policy, settings.packing)
        if world_size > 1:
            shard(self.policy, self._dtype)
        self._masters = MasterWeights(self.policy, self._dtype if world_size == 1 else None)
        self._optimizer = Optimizer(self._masters, settings)
        self._reference = self._load_reference()

    def _load_reference(self) -> Policy | None:
        if self.config.algorithm.kl_coef == 0 or self.config.model.lora is not None:
            return None
        reference = load_policy(self.config, self._model_dir, self._dtype, self.device)
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
        totals = StepTotals(self.world_size, self.device)
        norms = []
        for micros in minibatches:
            for micro in micros:
                with timer("forward"):
                    output = self._loss(micro, old)
                with timer("backward"):
                    (output.loss * self.world_size).backward()  # FSDP takes the mean over ranks
                totals.add(output)
                return_freed_memory()  # the next micro-batch has other sizes, and would not fit
            with timer("optimizer"):
                norms.append(self._update(batch.step, lr, totals))
        return_freed_memory()
        return {
            **totals.metrics(self._loss_settings, len(minibatches)),
            **self._packing_metrics(minibatches),
            **timer.metrics(),
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
        for start, stop in itertools.pairwise(bounds):
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

    def _update(self, step: int, lr: float, totals: StepTotals) -> float:
        """One optimizer step; the gradient's norm before clipping."""
        norm = self._optimizer.gradient_norm()
        loss = totals.loss()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise LearnerError(
                f"step {step}: the loss is {loss} and its gradient's norm {norm}, which must be "
                "finite; this update was not made. Continue from the last checkpoint with a "
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

    def _from_all_ranks(self, found: dict[TokenKey, T]) -> dict[TokenKey, T]:
        if self.world_size == 1:
            return found
        parts: list[dict[TokenKey, T]] = [{}] * self.world_size
        dist.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def _packing_metrics(self, minibatches: Sequence[Sequence[MicroBatch]]) -> dict[str, float]:
        micros = [micro for minibatch in minibatches for micro in minibatch]
        counts = torch.tensor(
            [sum(m.num_nodes for m in micros), sum(m.num_padded for m in micros)],
            dtype=torch.float64,
            device=self.device,
        )
        if self.world_size > 1:
            dist.all_reduce(counts)
        nodes, padded = counts.tolist()
        return {
            "packing/nodes": nodes,
            "packing/sharing": padded / nodes if nodes else 1.0,
            "packing/microbatches": float(len(micros)),
        }

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights as the rollout engines load them: Hugging Face names, whole tensors in
        `rollout.dtype`, adapters merged in, tied weights once. Read them before the next step."""
        return self.policy.export(self._masters.named, getattr(torch, self.config.rollout.dtype))

    def weight_source(self) -> WeightSource:
        """`named_weights` as vLLM's trainer engines take it."""
        return WeightSource(self)

    def save_state(self, folder: Path) -> None:
        """Write what an exact resume needs, one file for each rank."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "world_size": self.world_size,
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        try:
            torch.save(state, self._state_file(folder))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise CheckpointError(
                f"cannot write the learner's state to {folder}: {error}"
            ) from error

    def load_state(self, folder: Path) -> None:
        """Continue exactly where `save_state` was called.

        Raises:
            CheckpointError: the state is missing, broken, of another model or of another number
                of ranks.
        """
        file = self._state_file(folder)
        try:
            state = torch.load(file, map_location=self.device, weights_only=True, mmap=True)
            if state["world_size"] != self.world_size:
                raise CheckpointError(
                    f"{folder} was saved by {state['world_size']} learner ranks, and there are "
                    f"{self.world_size} now: set learner.num_ranks={state['world_size']}"
                )
            self._optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"].cpu())
        except CheckpointError:
            raise
        except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"cannot read the learner's state in {file}: {error}") from error

    def _state_file(self, folder: Path) -> Path:
        return folder / f"rank-{self.rank}.pt"

    def save_hf(self, folder: Path) -> None:
        """Write an ordinary Hugging Face model folder, in the data type of the initial weights,
        with the tokenizer. With LoRA the weights are merged, and the adapter is in `adapter/`."""
        try:
            self.policy.save(folder, self._masters.named, self._model_dir, write=self.rank == 0)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write the model to {folder}: {error}") from error


class WeightSource:
    """The learner's weights as a re-iterable source (vLLM's `WeightSource` protocol)."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._learner.named_weights()


def _key(sample: Sample) -> TokenKey:
    return sample.group, sample.member


def _sample(group: Group, index: int, member: int, advantage: float, weight: float) -> Sample:
    return Sample(
        group=index,
        member=member,
        prompt=group.prompt_token_ids,
        token_ids=group.rollouts[member].completion.token_ids,
        sampler_logprobs=group.rollouts[member].completion.logprobs,
        advantage=advantage,
        weight=weight,
    )


def _all_samples(groups: Sequence[Group]) -> list[Sample]:
    return [
        _sample(group, index, member, advantage=0.0, weight=0.0)
        for index, group in enumerate(groups)
        for member, rollout in enumerate(group.rollouts)
        if rollout.completion.token_ids
    ]


def _device(choice: str, rank: int) -> torch.device:
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())
