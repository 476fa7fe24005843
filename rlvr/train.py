"""The loop: rollout -> verdict -> advantage -> loss -> weights.

One loop for every degree of asynchrony: `max_lag` is how many versions the rollout workers may run
ahead. Everything here is written against the small protocols below; `cluster.py` implements them
with Ray, and tests with deterministic stand-ins.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlvr.advantages import compute
from rlvr.checkpoint import Checkpoint, CheckpointStore
from rlvr.completions_log import CompletionsLog
from rlvr.config import RunConfig
from rlvr.display import Display
from rlvr.errors import CheckpointError, DataError, RolloutError, ScoringError
from rlvr.evaluate import EvalTracker, PassRate, evaluate
from rlvr.hacking import Alarm, HackingMonitor
from rlvr.metrics import MetricsWriter, derived_metrics, group_metrics
from rlvr.sampling import Sampling
from rlvr.scoring import Scorer
from rlvr.shaping import mask_truncated, shape_rewards
from rlvr.stream import GroupStream, Problems, Sample, Taken
from rlvr.types import Batch, Group, Problem
from rlvr.workbench.live import LiveProbes


class Rollouts(Protocol):
    """The rollout workers, however many and wherever they are."""

    async def generate(self, index: int, problem: Problem, num: int, sampling: Sampling) -> Group:
        """The unscored group of `num` completions. Survives the death of a worker."""
        ...

    def take_stats(self) -> dict[str, float]:
        """Metrics since the last call."""
        ...


class Learner(Protocol):
    """The learner, on however many ranks."""

    async def step(self, batch: Batch) -> dict[str, float]: ...

    async def publish(self) -> dict[str, float]:
        """Move the weights into every rollout worker; returns once all have confirmed."""
        ...

    async def kl_penalties(self, groups: Sequence[Group]) -> list[list[float]]:
        """[P][G] KL to the reference model, summed over each completion's tokens."""
        ...

    async def save(self, folder: Path) -> None:
        """Write the exact training state, and the model as `transformers` reads it."""
        ...

    async def load(self, folder: Path, version: int) -> None:
        """Continue from what `save` wrote; the policy is `version` then."""
        ...


@dataclass(slots=True)
class Result:
    """What a run came to."""

    step: int
    interrupted: bool
    checkpoint: Path
    evaluations: dict[int, PassRate] = field(default_factory=dict)


@dataclass(slots=True)
class Trainer:
    """The parts of one run, and the loop that drives them."""

    config: RunConfig
    problems: Problems
    eval_problems: Sequence[Problem]
    rollouts: Rollouts
    learner: Learner
    scorer: Scorer
    checkpoints: CheckpointStore
    metrics: MetricsWriter
    completions: CompletionsLog
    display: Display
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it (Ctrl-C does) to save and end at the next safe point."""
    _step: int = field(default=0, init=False)
    _seconds: dict[str, float] = field(default_factory=dict, init=False)
    _evaluations: dict[int, PassRate] = field(default_factory=dict, init=False)
    _evaluated: set[int] = field(default_factory=set, init=False)
    """Steps after which there was an evaluation, also before a resume."""
    _tracker: EvalTracker = field(init=False)
    _monitor: HackingMonitor = field(init=False)
    _probes: LiveProbes = field(init=False)

    def __post_init__(self) -> None:
        self._tracker = EvalTracker(self.config.eval.patience)
        self._monitor = HackingMonitor()
        self._probes = LiveProbes(self.scorer.verdict, every=self.config.scoring.probe_every)

    async def run(self, resume: Checkpoint | None = None) -> Result:
        """Train from the start, or from `resume`, to the last step (or until `stop` is set)."""
        config = self.config
        stream = self._stream()
        try:
            await self._begin(stream, resume)
            while self._step < config.num_steps and not self._ended:
                self._seconds.clear()
                with self._timed("step"):
                    async with self._saving_on_failure(stream):
                        taken = await self._take(stream)
                    if taken is None:
                        break
                    with self._phase("advantages"):
                        batch = await self._batch(taken.groups)
                    with self._phase("learner"):
                        figures = await self.learner.step(batch)
                    with self._phase("publish"):
                        figures |= await self.learner.publish()
                self._step += 1
                await self._log(batch, taken.dropped, figures)
                async with self._saving_on_failure(stream):
                    await self._between_steps(stream)
            best = self._step not in self._evaluated and await self._evaluate()
            return Result(
                step=self._step,
                interrupted=self._step < config.num_steps and not self._tracker.should_stop,
                checkpoint=await self._save(stream, best=best),
                evaluations=self._evaluations,
            )
        finally:
            await stream.close()

    async def _begin(self, stream: GroupStream, resume: Checkpoint | None) -> None:
        if resume:
            await self._restore(stream, resume)
            return
        # What an attempt that ended before its first checkpoint has left is made again too.
        self.metrics.truncate_after(-1)
        self.completions.truncate_after(-1)
        await self._evaluate()

    async def _take(self, stream: GroupStream) -> Taken | None:
        """The next step's groups; null when the run is to stop before they are there."""
        with self._phase("rollout"):
            taken = await self._unless_stopped(stream.take())
        if taken is None:
            return None
        try:
            self.scorer.check([*taken.groups, *taken.dropped])
        except ScoringError:
            stream.put_back(taken)
            raise
        return taken

    @contextlib.asynccontextmanager
    async def _saving_on_failure(self, stream: GroupStream) -> AsyncIterator[None]:
        """When sampling or judging ends the run, the learner is well: keep what it has learned."""
        try:
            yield
        except (RolloutError, ScoringError, DataError):
            if self._step:
                try:
                    path = await self._save(stream, best=False)
                    self.display.note(f"the run fails; what it learned until now is in {path}")
                except CheckpointError as error:
                    self.display.note(str(error))
            raise

    @property
    def _ended(self) -> bool:
        """Whether somebody, or `eval.patience`, wants the run to end."""
        return self.stop.is_set() or self._tracker.should_stop

    async def _between_steps(self, stream: GroupStream) -> None:
        """Evaluate and save when it is time, while the workers sample the next step's groups."""
        config = self.config
        if self._step < config.num_steps:
            stream.prefetch()
        best = False
        if config.eval.every and self._step % config.eval.every == 0:
            best = await self._evaluate()
            if self._tracker.should_stop:
                self.display.note(
                    f"stopping early: {self._tracker.num_stale} evaluations in a row were not "
                    f"better than that of step {self._tracker.best_step} (eval.patience)"
                )
        if best or (config.checkpoint.every and self._step % config.checkpoint.every == 0):
            await self._save(stream, best=best)

    async def _batch(self, groups: Sequence[Group]) -> Batch:
        algorithm = self.config.algorithm
        shaped = await shape_rewards(groups, self.config, self.learner.kl_penalties)
        advantages = compute(algorithm.advantage, [group.rewards for group in shaped])
        if algorithm.mask_truncated:
            advantages = mask_truncated(advantages, shaped)
        return Batch(step=self._step, groups=tuple(shaped), advantages=advantages)

    def _stream(self) -> GroupStream:
        config = self.config
        return GroupStream(
            self.problems,
            self._sampler(config.rollout.group_size, Sampling.for_training(config)),
            groups_per_step=config.groups_per_step,
            max_lag=config.max_lag,
            dynamic=config.algorithm.dynamic_sampling,
            max_refill_factor=config.algorithm.max_refill_factor,
        )

    def _sampler(self, num: int, sampling: Sampling) -> Sample:
        """Samples a problem's group and has it judged at once, while others are still sampled."""

        async def sample(index: int, problem: Problem) -> Group:
            return await self.scorer.score(
                await self.rollouts.generate(index, problem, num, sampling)
            )

        return sample

    async def _evaluate(self) -> bool:
        """Held-out pass rate of the current policy, by the same workers and verifiers.

        Returns:
            Whether it is the run's best so far.
        """
        if not self.eval_problems or self.stop.is_set():
            return False
        num = self.config.eval.num_samples
        sample = self._sampler(num, Sampling.for_evaluation(self.config))
        with self._phase("eval"):
            evaluation = evaluate(self.eval_problems, sample, num, self.display.progress)
            done = await self._unless_stopped(evaluation)
        if done is None:
            return False
        result, groups = done
        self._evaluations[self._step] = result
        self._evaluated.add(self._step)
        self.completions.write_evaluation(self._step, groups)
        self.metrics.write_evaluation(self._step, result, self._seconds["eval"])
        self.display.evaluation(self._step, result)
        self._warn(
            self._monitor.observe_evaluation(self._step, result.pass_at_1, result.low, result.high)
        )
        return self._tracker.update(self._step, result.low)

    async def _look_for_hacking(
        self, groups: Sequence[Group], row: dict[str, float]
    ) -> dict[str, float]:
        """Signals that do not come from the verifier's score; alarms are shown and filed."""
        looks = [self._monitor.observe(self._step, groups, row)]
        if self.config.scoring.probe_every and self._probes.due(self._step):
            looks.append(await self._probes.run(self._step, groups))
        for look in looks:
            self._warn(look.alarms)
        return {name: value for look in looks for name, value in look.metrics.items()}

    def _warn(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            self.display.note(str(alarm))
            self.metrics.write_alarm(asdict(alarm))

    async def _save(self, stream: GroupStream, *, best: bool) -> Path:
        cursor, finished = stream.state()
        with self._phase("checkpoint"):
            self.metrics.sync()
            await asyncio.to_thread(self.completions.flush)
            path = await self.checkpoints.save(
                self._step, {"step": self._step, "stream": cursor}, finished, self.learner.save
            )
        if best:
            self.checkpoints.mark_best(self._step)
        return path

    async def _restore(self, stream: GroupStream, checkpoint: Checkpoint) -> None:
        """Continue where the checkpoint was; what was logged after it is forgotten, since those
        steps are made again."""
        self._step = checkpoint.step
        await self.learner.load(checkpoint.path, self._step)
        await self.learner.publish()
        self.metrics.truncate_after(self._step)
        self.completions.truncate_after(self._step)
        rows = self.metrics.rows()
        for row in rows:
            if "eval/n" in row:
                self._tracker.update(row["step"], row.get("eval/low"))
                self._evaluated.add(row["step"])
        self._monitor.replay(rows, self.metrics.alarms())
        self.display.start_at(self._step)
        stream.restore(checkpoint.state["stream"], checkpoint.groups)

    async def _unless_stopped(self, work: Any) -> Any:
        """The result of `work`, or None when `stop` is set first (`work` is then cancelled)."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        finally:
            stopped.cancel()

    def _phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A phase that people see, and whose seconds are counted."""
        self.display.phase(name)
        return self._timed(name)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    async def _log(self, batch: Batch, dropped: Sequence[Group], figures: dict[str, float]) -> None:
        """Write the step's metrics and completions; `_step` counts it as done already."""
        sampled = [*batch.groups, *dropped]
        row = group_metrics(sampled, version=batch.step) | figures | self.rollouts.take_stats()
        row |= {f"time/{phase}_s": seconds for phase, seconds in self._seconds.items()}
        row["groups/trained"] = len(batch.groups)
        row["groups/refilled"] = len(dropped)
        row |= derived_metrics(row)
        row |= await self._look_for_hacking(sampled, row)
        self.metrics.write(self._step, row)
        self.completions.write(self._step, sampled)
        self.display.step(self._step, row)
