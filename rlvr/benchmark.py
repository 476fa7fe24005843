"""`rlvr eval`: pass rates of a model on benchmarks, by the workers and verifiers of training."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlvr.benchmark_config import BenchmarkConfig, load_benchmark
from rlvr.benchmark_data import benchmark_problems
from rlvr.benchmark_hashes import data_hash, model_hash, prompt_hash, verifier_identity
from rlvr.benchmark_loop import Engines, Sampler, Tally, collect, error_reasons, missing_samples
from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.figures import figures
from rlvr.models import resolve_model
from rlvr.results import FORMAT, REPORT, ResultsFolder, open_results
from rlvr.sampling import Sampling
from rlvr.scoring import Scorer, verifier_params
from rlvr.types import Problem

JUDGING_PACKAGES = ("sympy", "math-verify", "reasoning-gym")
"""Packages that verifiers judge with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is measured."""

    name: str
    """As people know it."""
    folder: Path | None = None
    """Of weights and tokenizer; null for a served model."""
    hash: str | None = None
    """Of the folder's files; null for a served model."""
    endpoint: str | None = None
    """URL of the server; null for engines of our own."""

    def to_json(self) -> dict[str, Any]:
        served = {"endpoint": self.endpoint} if self.endpoint else {}
        return {"name": self.name, "hash": self.hash, **served}


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark whose parts were found to be there."""

    name: str
    """Also of its folder."""
    config: BenchmarkConfig
    problems: list[Problem]
    verifier: dict[str, Any]
    """Name, version and parameters."""

    @property
    def sampling(self) -> Sampling:
        config = self.config
        return Sampling(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            stop=config.stop,
            logprobs=False,
        )

    def identity(self, model: Model) -> dict[str, Any]:
        """What the figures depend on. Two measurements of one identity may be mixed."""
        config = self.config
        # A folder may be named in many ways; its hash says which model it is.
        return {
            "benchmark": self.name,
            "model": {"hash": model.hash} if model.hash else {"name": model.name},
            "data_hash": data_hash(self.problems),
            "prompt_hash": prompt_hash(self.problems, config.model.chat_template),
            "verifier": self.verifier,
            "num_problems": len(self.problems),
            "sampling": {
                "n": config.n,
                "temperature": config.temperature,
                "top_p": config.top_p,
                "max_tokens": config.max_tokens,
                "stop": list(config.stop),
                "seed": config.seed,
                "num_few_shot": config.num_few_shot,
                **({"extra_body": config.endpoint.extra_body} if model.endpoint else {}),
                **({} if model.endpoint else {"dtype": config.rollout.dtype}),
            },
        }


Report = Callable[[str, Tally], None]
"""Told of a benchmark's name and how far it is."""


def run(
    model: str,
    benchmarks: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    endpoint: str | None = None,
    report: Report = lambda name, tally: None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Any]]:
    """Measure a model; see `rlvr.evaluate.evaluate_model`.

    Args:
        report: Called as samples arrive.
        note: Called with a line for people now and then.
    """
    plans = plan(benchmarks, overrides)
    what = served_model(model, endpoint) if endpoint else local_model(model, plans[0].config)
    folder = output or default_output(model)
    results = asyncio.run(_measure_all(plans, what, folder, report, note))
    _write_report(folder)
    return results


def default_output(model: str) -> Path:
    """Where results go when nobody says: `evals/<model>-<time>`."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip("-.") or "model"
    return Path("evals") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def plan(benchmarks: Sequence[str], overrides: Sequence[str] = ()) -> list[Benchmark]:
    """Check all that can be checked without starting anything.

    Raises:
        ConfigError, DataError, ScoringError: saying what is wrong.
    """
    plans: list[Benchmark] = []
    for word in benchmarks:
        name, config = load_benchmark(word, _overrides_for(word, benchmarks, overrides))
        if any(each.name == name for each in plans):
            raise ConfigError(f"two benchmarks are called {name!r}; measure them one by one")
        problems = benchmark_problems(config)
        verifier = verifier_identity(problems, verifier_params(config.data))
        plans.append(Benchmark(name=name, config=config, problems=problems, verifier=verifier))
    return plans


def _overrides_for(word: str, benchmarks: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The settings of one benchmark: those for all, and those that begin with its name
    (`gsm8k.data.path=...`)."""
    mine = []
    for override in overrides:
        scope, dot, rest = override.partition(".")
        if not dot or scope not in benchmarks:
            mine.append(override)
        elif scope == word:
            mine.append(rest)
    return mine


def local_model(model: str, config: BenchmarkConfig) -> Model:
    """A model that our own engines load.

    Raises:
        ConfigError, ModelError: there is none, or it is incomplete.
    """
    folder, name = model_folder(model, config.model.revision)
    return Model(name=name, folder=folder, hash=model_hash(folder))


def served_model(model: str, url: str) -> Model:
    from rlvr.endpoint import base_url

    return Model(name=model, endpoint=base_url(url))


def model_folder(model: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder that transformers and vLLM load, and the model's name.

    Of a run directory it is its best checkpoint's, or the newest one's where none is marked best;
    of a checkpoint, its own.
    """
    from rlvr.checkpoint import CONFIG, MANIFEST, CheckpointStore

    path = Path(model)
    if (path / MANIFEST).is_file():
        step = path.resolve()
        return step / "model", f"{step.parent.parent.name}/{step.name}"
    if (path / CONFIG).is_file() and (path / "checkpoints").is_dir():
        store = CheckpointStore(path, keep_last=1)
        steps = store.steps()
        if not steps:
            raise ConfigError(f"run {model} has no checkpoint yet")
        step = store.path(store.best_step() or steps[-1])
        return step / "model", f"{path.resolve().name}/{step.name}"
    return resolve_model(model, revision), model


async def _measure_all(
    plans: Sequence[Benchmark], model: Model, output: Path, report: Report, note: Callable[..., Any]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    async with AsyncExitStack() as stack:
        samplers = _Samplers(model, output, note)
        stack.push_async_callback(samplers.close)
        for each in plans:
            run = {
                "format": FORMAT,
                "identity": each.identity(model),
                "model": model.to_json(),
                "config": each.config.model_dump(mode="json"),
            }
            with open_results(output / each.name, run) as results:
                done = results.finished
                if done is None:
                    done = await _measure(each, model, results, samplers, report)
                else:
                    note(f"{each.name}: complete already")
                _warn_of_errors(each.name, results, note)
                found[each.name] = done
    return found


async def _measure(
    benchmark: Benchmark,
    model: Model,
    results: ResultsFolder,
    samplers: _Samplers,
    report: Report,
) -> dict[str, Any]:
    """Sample and judge what is missing, then write the figures."""
    config, problems = benchmark.config, benchmark.problems
    async with Scorer(config.scoring, verifier_params(config.data)) as scorer:
        sampler = None
        if missing_samples(problems, config.n, results):
            sampler = await samplers.get(benchmark)
        started = time.monotonic()
        try:
            await collect(
                problems,
                config.n,
                benchmark.sampling,
                sampler,
                scorer.verdict,
                results,
                lambda tally: report(benchmark.name, tally),
            )
        finally:
            results.seconds += time.monotonic() - started
    order = [(problem.id, number) for problem in problems for number in range(config.n)]
    rows = [results.judged[key] for key in order]
    identity = benchmark.identity(model)
    done = {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "model": model.to_json(),
        "config": config.model_dump(mode="json"),
        "versions": _versions(config.seed, benchmark.name),
        **{key: identity[key] for key in ("data_hash", "prompt_hash", "verifier", "sampling")},
        "num_problems": len(problems),
        "num_samples": config.n,
        "figures": figures(rows, config.n, config.seed),
        "seconds": round(results.seconds, 3),
        "tokens": sum(row["num_tokens"] for row in rows),
    }
    results.finish(done, order)
    return done


class _Samplers:
    """The engines or the endpoint, started when first needed, and kept for the next benchmark that
    can use the same."""

    def __init__(self, model: Model, output: Path, note: Callable[[str], None]) -> None:
        self._model = model
        self._output = output
        self._note = note
        self._stack = AsyncExitStack()
        self._running: tuple[Any, Any] | None = None
        """Configuration, and what was started with it."""

    async def get(self, benchmark: Benchmark) -> Sampler:
        config: Any = benchmark.config.endpoint if self._model.endpoint else engine(benchmark)
        if self._running is None or self._running[0] != config:
            await self.close()
            self._running = config, await self._stack.enter_async_context(self._start(config))
        sampler = self._running[1]
        if isinstance(sampler, Engines):
            await sampler.check(benchmark.problems, benchmark.sampling)
        return sampler

    @contextlib.asynccontextmanager
    async def _start(self, config: Any) -> AsyncIterator[Sampler]:
        if self._model.endpoint:
            from rlvr.endpoint import Endpoint

            async with Endpoint(self._model.endpoint, self._model.name, config) as endpoint:
                yield endpoint
        else:
            from rlvr.cluster import rollout_workers

            self._note("starting Ray and vLLM")
            async with rollout_workers(config, str(self._model.folder), self._output) as pool:
                yield Engines(pool)

    async def close(self) -> None:
        self._running = None
        await self._stack.aclose()


def engine(benchmark: Benchmark) -> RunConfig:
    """What the rollout workers are started with. Benchmarks that differ only in how they sample
    give the same, and share the workers."""
    config = benchmark.config
    # The limit of each request is the benchmark's; that of training must only fit in the model's.
    rollout = config.rollout.model_copy(update={"max_tokens": 1})
    return RunConfig(model=config.model, rollout=rollout, seed=config.seed)


def _warn_of_errors(name: str, results: ResultsFolder, note: Callable[[str], None]) -> None:
    reasons = error_reasons(results.judged.values())
    if reasons:
        reason, count = next(iter(reasons.items()))
        note(
            f"{name}: {sum(reasons.values())} of {len(results.judged)} completions could not be "
            f"judged and are in no figure; most frequent ({count}): {reason}. The same command "
            f"with --output {results.folder.parent} judges them again, without sampling"
        )


def _versions(seed: int, name: str) -> dict[str, Any]:
    """Of what sampled and what judged."""
    from rlvr.launch import environment

    found = environment(seed, name)
    for package in JUDGING_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found["versions"][package] = version(package)
    return found


def _write_report(output: Path) -> None:
    from rlvr.report import write_report

    write_report(output, output / REPORT)
