"""What a benchmark is: its data, its prompt, its verifier, and how it is sampled.

A shipped benchmark is a TOML file of `rlvr/benchmarks/`; a user's own has the same keys. Every
value can be overridden on the command line (`n=8 temperature=0.6 data.path=my.jsonl`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from rlvr.config import (
    DataConfig,
    ModelConfig,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    RolloutConfig,
    RunConfig,
    ScoringConfig,
    Section,
)
from rlvr.errors import ConfigError
from rlvr.load_config import absolute_data, all_keys, apply_override, load_config, shipped_recipes
from rlvr.sources import JSONL_SUFFIXES

REASONING_GYM = "reasoning_gym:"
"""Prefix of the benchmark that any reasoning-gym task is."""
REASONING_GYM_SIZE = 200
"""Problems of a reasoning-gym benchmark, where `data.params.size` does not say."""
REASONING_GYM_SEED = 1_000_003
"""Its seed: not the default one of training data, so that the two do not share problems."""
REASONING_GYM_TEMPLATE = "{prompt}\n\nGive your final answer between <answer> and </answer>."

ALIASES = {
    "system_prompt": "data.system_prompt",
    "limit": "data.limit",
    "verifier": "data.verifier",
    "eval.num_samples": "n",
    "eval.temperature": "temperature",
    "eval.top_p": "top_p",
    "eval.max_tokens": "max_tokens",
    "rollout.max_tokens": "max_tokens",
    "rollout.temperature": "temperature",
    "rollout.stop": "stop",
}
"""Other names of a key on the command line: short ones, and those that recipes have."""
_SAMPLING = {"max_tokens", "temperature", "stop", "group_size", "top_p", "top_k"}
"""Keys of `[rollout]` that a benchmark has at its top level, or not at all."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ONLY_RECIPES = set(RunConfig.model_fields) - {"seed", "model", "data", "rollout", "scoring"}


class Shot(Section):
    """A worked example, shown before the problem."""

    prompt: str
    """The question; it goes through `data.prompt_template` as the problems' own do."""
    completion: str
    """The answer that the model is shown to have given."""
    tests: tuple[str, ...] = ()
    """MBPP: the tests that are shown with the question."""


class EndpointConfig(Section):
    """How a served model is asked (`--endpoint`)."""

    concurrency: Positive = 64
    """Requests in flight."""
    requests_per_minute: Positive | None = None
    """Requests begun in a minute, evenly spaced; null for no limit but the server's."""
    timeout_s: PositiveFloat = 600.0
    """For one answer, from the request to its last byte."""
    max_retries: NonNegative = 8
    """Of a request that was refused for load (429), failed (5xx) or got no sensible answer."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key; no key is sent where it is not set."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to every request, e.g. `endpoint.extra_body.top_k=20`."""


class BenchmarkConfig(Section):
    """One benchmark, and everything its figures depend on but the model."""

    description: str = ""
    """What it measures, and its paper."""
    licence: str = ""
    """Of the data."""
    data_revision: str | None = None
    """Hub revision of the data, where `data.path` is a hub id."""
    adapter: Literal["none", "mbpp"] = "none"
    """`mbpp`: the columns `code`, `test_list` and `test_setup_code` (or `test_imports`), kept as
    metadata, become code tests, and the tests are shown after the prompt."""

    n: Positive = 1
    """Completions a problem."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy (then `n` is 1)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus."""
    max_tokens: Positive = 512
    """Completion length limit in tokens."""
    stop: tuple[str, ...] = ()
    """Stop strings; kept in the completion."""
    seed: NonNegative = 0
    """Seeds the engines and the bootstrap (see docs/evaluation.md for what that covers)."""
    num_few_shot: NonNegative = 0
    """Worked examples before each problem: the first so many of `few_shot`."""
    few_shot: tuple[Shot, ...] = ()
    """Worked examples there are."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    """`path` is not read: MODEL is."""
    rollout: RolloutConfig = RolloutConfig()
    """The engines; how they sample is said above."""
    scoring: ScoringConfig = ScoringConfig()
    endpoint: EndpointConfig = EndpointConfig()

    @model_validator(mode="after")
    def _cross_check(self) -> BenchmarkConfig:
        if misplaced := sorted(self.rollout.model_fields_set & _SAMPLING):
            raise ValueError(
                f"rollout.{misplaced[0]} is for training; a benchmark has n, temperature, top_p, "
                f"max_tokens and stop at its top level"
            )
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                f"temperature = 0 gives the same completion {self.n} times; set a temperature "
                f"above 0, or n = 1"
            )
        if self.num_few_shot > len(self.few_shot):
            raise ValueError(
                f"num_few_shot = {self.num_few_shot}, but there are {len(self.few_shot)} worked "
                f"examples (`few_shot`, a list of tables with prompt and completion)"
            )
        if self.rollout.max_model_len is not None and self.rollout.max_model_len <= self.max_tokens:
            raise ValueError(
                f"rollout.max_model_len = {self.rollout.max_model_len} leaves no room for a prompt "
                f"beside max_tokens = {self.max_tokens}"
            )
        return self


def shipped_benchmarks() -> dict[str, Path]:
    """Name -> path of the benchmarks in the package."""
    folder = Path(str(resources.files("rlvr") / "benchmarks"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_benchmark(name: str, overrides: Iterable[str] = ()) -> tuple[str, BenchmarkConfig]:
    """A benchmark's folder name and its configuration, `key=value` overrides applied.

    Args:
        name: a shipped benchmark, `reasoning_gym:<task>`, a TOML file (of a benchmark, or a recipe,
            whose held-out data counts), a shipped recipe, a data file, or a data set's hub id.

    Raises:
        ConfigError: it is none of these (the nearest is suggested), or its settings are wrong.
    """
    overrides = list(overrides)
    title, values = _find(name)
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if key.startswith("eval.data."):
            key = key.removeprefix("eval.")
        apply_override(values, f"{ALIASES.get(key, key)}{equals}{text}")
    try:
        config = BenchmarkConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"benchmark {name}: {_explain(error)}") from error
    return _folder_name(title), config.model_copy(update={"data": absolute_data(config.data)})


def _find(name: str) -> tuple[str, dict[str, Any]]:
    shipped, recipes = shipped_benchmarks(), shipped_recipes()
    if name in shipped:
        return name, _read_toml(shipped[name])
    if name in recipes:
        return name, _of_recipe(name)
    if name.startswith(REASONING_GYM):
        return name, _reasoning_gym(name.removeprefix(REASONING_GYM))
    path = Path(name).expanduser()
    if name.endswith(".toml"):
        values = _read_toml(path)
        return path.stem, _of_recipe(name) if values.keys() & _ONLY_RECIPES else values
    if name.lower().endswith((*JSONL_SUFFIXES, ".parquet")):
        if not path.is_file():
            raise ConfigError(f"benchmark {name!r}: there is no such data file")
        return path.name.partition(".")[0], {"data": {"path": name}}
    if path.is_dir() or _HUB_ID.fullmatch(name):
        return path.name, {"data": {"path": name}}
    known = [*dict.fromkeys([*shipped, *recipes]), f"{REASONING_GYM}<task>"]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(
        f"unknown benchmark {name!r}{hint} Known: {', '.join(known)}, a TOML file, or a data file "
        f"({', '.join(JSONL_SUFFIXES[:2])}, .parquet)"
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"benchmark {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _of_recipe(recipe: str) -> dict[str, Any]:
    """A recipe's held-out data (else its data), sampled as its evaluation says."""
    config = load_config(recipe)
    evaluation = config.eval
    return {
        "n": evaluation.num_samples,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
        "max_tokens": evaluation.max_tokens or config.rollout.max_tokens,
        "stop": config.rollout.stop,
        "seed": config.seed,
        "data": (evaluation.data or config.data).model_dump(),
        "model": config.model.model_dump(),
        "rollout": config.rollout.model_dump(exclude=_SAMPLING),
        "scoring": config.scoring.model_dump(),
    }


def _reasoning_gym(task: str) -> dict[str, Any]:
    return {
        "description": f"reasoning-gym's {task}, judged by its own scorer (arXiv:2505.24760)",
        "licence": "Apache-2.0",
        "data": {
            "source": "reasoning_gym",
            "path": task,
            "params": {"size": REASONING_GYM_SIZE, "seed": REASONING_GYM_SEED},
            "prompt_template": REASONING_GYM_TEMPLATE,
        },
    }


def _folder_name(title: str) -> str:
    return re.sub(r"[^\w.-]+", "-", title).strip("-.") or "benchmark"


def _explain(error: ValidationError) -> str:
    known = all_keys(BenchmarkConfig)
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, [*known, *ALIASES], n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else f"; keys: {', '.join(known)}"
            lines.append(f"unknown key `{key}`{hint}")
        elif item["type"] == "value_error":
            lines.append(item["msg"].removeprefix("Value error, "))
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.append(f"`{key}` = {item['input']!r:.80}: {message}")
    return "; ".join(lines)
