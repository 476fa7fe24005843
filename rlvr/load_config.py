"""Finding a recipe, applying overrides, and saying clearly what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rlvr.config import DataConfig, RunConfig
from rlvr.errors import ConfigError


def shipped_recipes() -> dict[str, Path]:
    """Name -> path of the recipes in the package."""
    folder = Path(str(resources.files("rlvr") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(recipe: str) -> Path:
    """A shipped recipe's name, or a TOML file's path.

    Raises:
        ConfigError: if it is neither; the nearest shipped name is suggested.
    """
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    path = Path(recipe)
    if path.is_file():
        return path
    near = difflib.get_close_matches(recipe, shipped, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{recipe!r} is neither a TOML file nor a shipped recipe ({', '.join(shipped)}){hint}"
    )


NOT_SHARED = {"source", "path", "name", "split", "params", "limit", "skip", "shuffle"}
HOW_TO_READ = [key for key in DataConfig.model_fields if key not in NOT_SHARED]
"""Keys of `[data]` that hold for `[eval.data]` too, unless it has its own: columns, template,
verifier. Which data it is, is never shared."""


def load_config(recipe: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The resolved configuration of a recipe with `key=value` overrides applied.

    Raises:
        ConfigError: naming the file or override, the key, and what was expected.
    """
    path = find_recipe(recipe)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return resolve(values, overrides, origin=str(path))


def resolve(values: dict[str, Any], overrides: Iterable[str], *, origin: str) -> RunConfig:
    """`values` with the overrides applied, validated; local paths made absolute, so that a resume
    from another folder finds them."""
    for override in overrides:
        apply_override(values, override)
    data, evaluation = values.get("data"), values.get("eval")
    if isinstance(data, dict) and isinstance(evaluation, dict):
        held_out = evaluation.get("data")
        if isinstance(held_out, dict):
            shared = {key: data[key] for key in HOW_TO_READ if key in data}
            values = {**values, "eval": {**evaluation, "data": {**shared, **held_out}}}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from error
    return _absolute(config)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `key=value` of the command line in nested settings.

    Raises:
        ConfigError: it has another form, or its key lies within what is no table.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"override {override!r} is not of the form key=value, e.g. learner.lr=1e-5"
        )
    section = values
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
    section[parts[-1]] = _parse(text.strip())


def _parse(text: str) -> Any:
    """A TOML value; `null` is None; anything that is not TOML is a plain string."""
    if text == "null":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key `{key}`{_suggest(item['loc'])}")
        elif item["type"] == "value_error":
            lines.append(item["msg"].removeprefix("Value error, "))
        else:
            shown = repr(item["input"])
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.append(f"`{key}` = {shown[:80]}: {message}")
    return f"{origin}: " + "; ".join(lines)


def _suggest(loc: tuple[int | str, ...]) -> str:
    """The nearest valid key in the same section, else the section that has a key of that name."""
    section: type[BaseModel] | None = RunConfig
    for part in loc[:-1]:
        section = section and _section(section, str(part))
    known = list(section.model_fields) if section else []
    near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
    prefix = "".join(f"{part}." for part in loc[:-1])
    if near:
        return f"; did you mean `{prefix}{near[0]}`?"
    elsewhere = [key for key in all_keys() if key.split(".")[-1] == str(loc[-1])]
    if elsewhere:
        return f"; did you mean `{elsewhere[0]}`?"
    return f"; valid keys here: {', '.join(known)}" if known else ""


def _section(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model class of a sub-section, looking through `X | None`."""
    field = section.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def all_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    keys = []
    for name in section.model_fields:
        below = _section(section, name)
        keys += all_keys(below, f"{prefix}{name}.") if below else [f"{prefix}{name}"]
    return keys


def _absolute(config: RunConfig) -> RunConfig:
    updates: dict[str, Any] = {"data": absolute_data(config.data)}
    if config.eval.data:
        updates["eval"] = config.eval.model_copy(update={"data": absolute_data(config.eval.data)})
    if Path(config.model.path).is_dir():
        updates["model"] = config.model.model_copy(
            update={"path": str(Path(config.model.path).resolve())}
        )
    if config.run_dir:
        updates["run_dir"] = config.run_dir.resolve()
    return config.model_copy(update=updates)


def absolute_data(data: DataConfig) -> DataConfig:
    """The same with absolute paths of what is a file: a saved config is read elsewhere."""
    updates: Mapping[str, Any] = {}
    if data.path and Path(data.path).exists():
        updates = {**updates, "path": str(Path(data.path).resolve())}
    file, colon, attr = data.verifier.rpartition(":")
    if colon and file.endswith(".py") and Path(file).exists():
        updates = {**updates, "verifier": f"{Path(file).resolve()}:{attr}"}
    return data.model_copy(update=updates)
