"""`rlvr eval`: pass@1 of a model on a data set, by the same workers and verifiers as training."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rlvr.config import DataConfig, RunConfig
from rlvr.data import load_problems
from rlvr.errors import ConfigError
from rlvr.evaluate import PassRate, evaluate
from rlvr.load_config import load_config, resolve, shipped_recipes
from rlvr.models import resolve_model
from rlvr.sampling import Sampling
from rlvr.scoring import Scorer, verifier_params
from rlvr.types import Group, Problem


def run(model: str, data: str, overrides: list[str], output: Path | None) -> PassRate:
    """Evaluate `model` (a folder, hub id, built-in name, or run directory) on `data` (a recipe,
    whose held-out data counts, or a data file).

    Raises:
        RlvrError: whatever is wrong with the model, the data or the settings.
    """
    config, held_out = _settings(data, overrides)
    problems = load_problems(held_out, Path.cwd())
    folder = model_folder(model, config.model.revision)
    if output and output.exists():
        raise ConfigError(f"{output} exists already; name another file")
    with tempfile.TemporaryDirectory(prefix="rlvr-eval-") as logs:
        result, groups = asyncio.run(_evaluate(config, held_out, problems, folder, Path(logs)))
    if output:
        write_completions(output, groups)
    return result


def model_folder(model: str, revision: str | None = None) -> Path:
    """The folder that transformers and vLLM load: of a run directory, its newest checkpoint's."""
    from rlvr.checkpoint import CONFIG, CheckpointStore

    if (Path(model) / CONFIG).is_file() and (Path(model) / "checkpoints").is_dir():
        store = CheckpointStore(Path(model), keep_last=1)
        steps = store.steps()
        if not steps:
            raise ConfigError(f"run {model} has no checkpoint yet")
        return store.path(steps[-1]) / "model"
    return resolve_model(model, revision)


def _settings(data: str, overrides: list[str]) -> tuple[RunConfig, DataConfig]:
    if data in shipped_recipes() or data.endswith(".toml"):
        config = load_config(data, overrides)
        return config, config.eval.data or config.data
    values: dict[str, Any] = {"data": {"path": data}}
    config = resolve(values, overrides, origin=data)
    return config, config.data


async def _evaluate(
    config: RunConfig, held_out: DataConfig, problems: list[Problem], folder: Path, logs: Path
) -> tuple[PassRate, list[Group]]:
    from rlvr.cluster import rollout_workers

    sampling = Sampling.for_evaluation(config)
    num = config.eval.num_samples
    async with (
        rollout_workers(config, str(folder), logs) as pool,
        Scorer(config.scoring, verifier_params(held_out)) as scorer,
    ):

        async def sample(index: int, problem: Problem) -> Group:
            return await scorer.score(await pool.generate(index, problem, num, sampling))

        return await evaluate(problems, sample, num)


def write_completions(path: Path, groups: list[Group]) -> None:
    """One JSON line a completion: problem id, completion, verdict."""
    with path.open("w", encoding="utf-8") as file:
        for group in groups:
            for rollout in group.rollouts:
                row = {
                    "id": group.problem.id,
                    "problem": group.problem.to_json(),
                    "completion": rollout.completion.text,
                    "finish_reason": rollout.completion.finish_reason,
                    "verdict": rollout.verdict.to_json() if rollout.verdict else None,
                }
                file.write(json.dumps(row) + "\n")
