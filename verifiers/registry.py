"""Finding verifiers: by registered name, by `module:attr`, or by `path/to/file.py:attr`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from verifiers.errors import VerifierLoadError
from verifiers.forms import LoadedVerifier, adapt

ENTRY_POINT_GROUP = "rlvr.verifiers"

BUILT_IN = {
    "number": "verifiers.number:NumberVerifier",
    "reasoning_gym": "verifiers.reasoning_gym:ReasoningGymVerifier",
    "math": "verifiers.mathematics.verifier:MathVerifier",
    "code": "verifiers.code:CodeVerifier",
    "exact": "verifiers.simple:ExactVerifier",
    "choice": "verifiers.simple:ChoiceVerifier",
    "numeric": "verifiers.simple:NumericVerifier",
    "regex": "verifiers.formats:RegexVerifier",
    "tags": "verifiers.formats:TagsVerifier",
    "json_schema": "verifiers.json_schema:JsonSchemaVerifier",
    "language": "verifiers.language:LanguageVerifier",
    "length_penalty": "verifiers.penalties:LengthPenalty",
    "repetition_penalty": "verifiers.penalties:RepetitionPenalty",
    "weighted": "verifiers.compose:Weighted",
    "gate": "verifiers.compose:Gate",
    "first_failure": "verifiers.compose:FirstFailure",
    "maximum": "verifiers.compose:Maximum",
    "http": "verifiers.http_verifier:HttpVerifier",
    "trl": "verifiers.adapters:TrlVerifier",
    "verl": "verifiers.adapters:VerlVerifier",
    "openrlhf": "verifiers.adapters:OpenRlhfVerifier",
}
"""Names that need no installed entry point; they win over an entry point of the same name."""

ADAPTERS = ("trl", "verl", "openrlhf")
"""Reward functions of other trainers (`verifiers.adapters`).
`trl:rewards.py:f` is short for `trl` with the parameter `function = "rewards.py:f"`."""


def load(spec: str, /, **params: Any) -> LoadedVerifier:
    """Find the verifier `spec` names and build it with `params`.

    Args:
        spec: a registered name (`number`), `module:attr`, `path/to/file.py:attr`, or one of the
            last two behind an adapter's name (`trl:rewards.py:accuracy`). A relative path is
            relative to the working directory.
        params: keyword arguments of the class or factory; of a plain function, its further
            keyword arguments.

    Raises:
        VerifierLoadError: the name is unknown, the import fails, the attribute is missing, or the
            signature does not fit.
    """
    adapter, _, function = spec.partition(":")
    if adapter in ADAPTERS and ":" in function:
        return load(adapter, function=function, **params)
    target, source = locate(spec)
    return adapt(target, spec, source, params)


def locate(spec: str) -> tuple[Any, str]:
    """The object `spec` names, and the spec by which another process finds it.

    Raises:
        VerifierLoadError: as `load`, but for the signature.
    """
    source = spec if ":" in spec else _registered(spec)
    location, _, attribute = source.rpartition(":")
    if not location or not attribute:
        raise VerifierLoadError(
            f"verifier {spec!r} is not a name, module:attr, or path/to/file.py:attr"
        )
    if location.endswith(".py"):
        path = Path(location).expanduser().resolve()
        module = _import_file(path, spec)
        source = f"{path}:{attribute}"
    else:
        module = _import_module(location, spec)
    return _attribute(module, attribute, spec, location), source


def registered() -> dict[str, str]:
    """Every registered name and the `module:attr` behind it."""
    names = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {**names, **BUILT_IN}


def _registered(name: str) -> str:
    if name in BUILT_IN:
        return BUILT_IN[name]
    names = registered()
    if name not in names:
        raise VerifierLoadError(
            f"unknown verifier {name!r}{_nearest(name, names)}; registered: "
            f"{', '.join(sorted(names))}. Your own: module:attr or path/to/file.py:attr"
        )
    return names[name]


def _import_module(location: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(location)
    except ModuleNotFoundError as error:
        hint = ""
        if (Path.cwd() / f"{location.replace('.', '/')}.py").is_file():
            hint = f"; for the file in this folder write {location.replace('.', '/')}.py:..."
        raise VerifierLoadError(f"verifier {spec!r} cannot be imported: {error}{hint}") from error
    except (Exception, SystemExit) as error:
        raise _import_failure(spec, error) from error


def _import_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise VerifierLoadError(f"verifier {spec!r}: there is no file {path}")
    name = f"rlvr_verifier_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(module_spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what lies beside it; last, so it shadows nothing
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failure(spec, error) from error
    return module


def _import_failure(spec: str, error: BaseException) -> VerifierLoadError:
    """The boundary to other people's modules: importing one may raise anything."""
    return VerifierLoadError(
        f"verifier {spec!r} cannot be imported: {type(error).__name__}: {error}"
    )


def _attribute(module: ModuleType, dotted: str, spec: str, location: str) -> Any:
    value: Any = module
    for name in dotted.split("."):
        if name not in dir(value):
            public = [known for known in dir(value) if not known.startswith("_")]
            raise VerifierLoadError(
                f"verifier {spec!r}: {location} has no {name!r}{_nearest(name, public)}"
            )
        value = getattr(value, name)
    return value


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""
