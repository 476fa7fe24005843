"""Scoring groups: fan out to verifiers, attach verdicts, count them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.config import DataConfig, ScoringConfig
from rlvr.data import verifier_of
from rlvr.errors import ScoringError
from rlvr.types import Group, Problem, Status, Verdict
from verifiers.errors import VerifierLoadError
from verifiers.registry import LoadedVerifier, load
from verifiers.runner import Runner


class Scorer:
    """Turns unscored groups into scored ones. Belongs to one event loop.

    Args:
        config: deadlines, retries, processes, concurrency.
        params: keyword arguments of each verifier's factory, by the verifier's name.
    """

    def __init__(
        self, config: ScoringConfig, params: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self._config = config
        self._params = dict(params or {})
        self._verifiers: dict[str, LoadedVerifier] = {}
        self._runner = make_runner(config)

    def load(self, name: str) -> LoadedVerifier:
        """The verifier of that name, loaded once.

        Raises:
            ScoringError: it cannot be found, imported or called.
        """
        if name not in self._verifiers:
            self._verifiers[name] = load_verifier(name, self._params.get(name, {}))
        return self._verifiers[name]

    async def verdict(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion with the problem's verifier."""
        return await self._runner.judge(self.load(problem.verifier), problem, completion)

    async def score(self, group: Group) -> Group:
        """The group with a verdict for every rollout, in order.

        Raises:
            ScoringError: the problem's verifier cannot be loaded. A verdict that fails is `error`.
        """
        verdicts = await asyncio.gather(
            *(self.verdict(group.problem, rollout.completion.text) for rollout in group.rollouts)
        )
        return group.with_verdicts(verdicts)

    def check(self, groups: Sequence[Group]) -> None:
        """Stop a run whose judging is broken.

        Raises:
            ScoringError: more than `max_error_fraction` of the step's verdicts are `error`; with
                the most frequent reason.
        """
        verdicts = [
            rollout.verdict
            for group in groups
            for rollout in group.rollouts
            if rollout.verdict is not None
        ]
        errors = [verdict for verdict in verdicts if verdict.status is Status.ERROR]
        if len(errors) > self._config.max_error_fraction * len(verdicts):
            reasons = Counter(str(verdict.detail.get("reason", "no reason")) for verdict in errors)
            reason, count = reasons.most_common(1)[0]
            reason = " ".join(reason.split())
            raise ScoringError(
                f"{len(errors)} of {len(verdicts)} verdicts are errors, more than "
                f"scoring.max_error_fraction = {self._config.max_error_fraction:g} allows; most "
                f"frequent ({count}): {reason}"
            )

    async def close(self) -> None:
        """Close the verifiers and kill the worker processes."""
        await self._runner.close()

    async def __aenter__(self) -> Scorer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def make_runner(config: ScoringConfig) -> Runner:
    """A runner with these settings."""
    return Runner(**config.model_dump(exclude={"max_error_fraction", "probe_every"}))


def load_verifier(name: str, params: Mapping[str, Any]) -> LoadedVerifier:
    """`verifiers.load` with this package's error, for start-up and `--dry-run`.

    Raises:
        ScoringError: the verifier cannot be found, imported or called.
    """
    try:
        return load(name, **params)
    except VerifierLoadError as error:
        raise ScoringError(str(error)) from error


def verifier_params(*configs: DataConfig | None) -> dict[str, dict[str, Any]]:
    """What `Scorer` needs for these data sets: each default verifier's parameters, by name.

    Raises:
        ScoringError: two data sets give the same verifier different parameters.
    """
    params: dict[str, dict[str, Any]] = {}
    for config in configs:
        if config is None:
            continue
        name = verifier_of(config)
        if params.setdefault(name, config.verifier_params) != config.verifier_params:
            raise ScoringError(
                f"two data sets give the verifier {name!r} different verifier_params: "
                f"{params[name]} and {config.verifier_params}; make them equal"
            )
    return params
