"""Finding verifiers: by registered name, by `module:attr`, or by `path/to/file.py:attr`."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from verifiers.errors import VerifierLoadError

ENTRY_POINT_GROUP = "rlvr.verifiers"

BUILT_IN = {
    "number": "verifiers.number:NumberVerifier",
    "reasoning_gym": "verifiers.reasoning_gym:ReasoningGymVerifier",
}
"""Names that need no installed entry point; they win over an entry point of the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVerifier:
    """A verifier whose form and signature have been checked."""

    name: str
    spec: str
    """What another process passes to `load` to get the same verifier (file paths absolute)."""
    params: Mapping[str, Any] = field(default_factory=dict)
    verify: Callable[..., Any]
    """Called with (problem, completion)."""
    is_async: bool
    in_process: bool
    """Sync, and declared cheap, pure and trusted enough to run without a process of its own."""


def load(spec: str, /, **params: Any) -> LoadedVerifier:
    """Find the verifier `spec` names and build it with `params`.

    Args:
        spec: a registered name (`number`), `module:attr`, or `path/to/file.py:attr`. A relative
            path is relative to the working directory.
        params: keyword arguments of the class or factory; of a plain function, its further
            keyword arguments.

    Raises:
        VerifierLoadError: the name is unknown, the import fails, the attribute is missing, or the
            signature does not fit.
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
    return _adapt(_attribute(module, attribute, spec), spec, source, params)


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
    except Exception as error:
        raise _import_failure(spec, error) from error


def _import_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise VerifierLoadError(f"verifier {spec!r}: there is no file {path}")
    name = f"rlvr_verifier_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _import_failure(spec, error) from error
    return module


def _import_failure(spec: str, error: Exception) -> VerifierLoadError:
    """The boundary to other people's modules: importing one may raise anything."""
    return VerifierLoadError(
        f"verifier {spec!r} cannot be imported: {type(error).__name__}: {error}"
    )


def _attribute(module: ModuleType, dotted: str, spec: str) -> Any:
    value: Any = module
    for name in dotted.split("."):
        if name not in dir(value):
            public = [known for known in dir(value) if not known.startswith("_")]
            raise VerifierLoadError(
                f"verifier {spec!r}: {module.__name__} has no {name!r}{_nearest(name, public)}"
            )
        value = getattr(value, name)
    return value


def _adapt(target: Any, spec: str, source: str, params: Mapping[str, Any]) -> LoadedVerifier:
    """Tell the accepted forms apart (see `verifiers.protocol`) and check the call's signature."""
    if not callable(target) and not _has_verify(target):
        raise VerifierLoadError(
            f"verifier {spec!r} is {type(target).__name__}; expected a class, a factory, or a "
            "function (problem, completion)"
        )
    if inspect.isroutine(target) and _judges(target, params):
        verify = functools.partial(target, **params) if params else target
        return _loaded(target, verify, spec, source, params)
    instance: Any = target
    if inspect.isclass(target) or inspect.isroutine(target):
        instance = _build(target, spec, params)
    elif params:
        raise VerifierLoadError(
            f"verifier {spec!r} is a ready-made object and takes no parameters, got "
            f"{', '.join(params)}"
        )
    verify = instance.verify if _has_verify(instance) else instance
    if not callable(verify) or not _judges(verify, {}):
        shape = f"{inspect.signature(verify)}" if callable(verify) else type(verify).__name__
        raise VerifierLoadError(
            f"verifier {spec!r} cannot be called with (problem, completion): it is {shape}"
        )
    return _loaded(instance, verify, spec, source, params)


def _build(factory: Callable[..., Any], spec: str, params: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(factory).bind(**params)
    except TypeError as error:
        raise VerifierLoadError(
            f"verifier {spec!r} takes {inspect.signature(factory)}: {error}"
        ) from error
    try:
        return factory(**params)
    except Exception as error:  # the boundary to other people's constructors
        raise VerifierLoadError(
            f"verifier {spec!r} cannot be built: {type(error).__name__}: {error}"
        ) from error


def _judges(function: Callable[..., Any], params: Mapping[str, Any]) -> bool:
    """Whether (problem, completion) fit, as two positional parameters without defaults.

    The defaults tell a verifier from a factory such as `def make(scale=1, base=0)`.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(None, None, **params)
    except TypeError:
        return False
    leading = [signature.parameters[name] for name in list(bound.arguments)[:2]]
    return all(parameter.default is inspect.Parameter.empty for parameter in leading)


def _loaded(
    owner: Any, verify: Callable[..., Any], spec: str, source: str, params: Mapping[str, Any]
) -> LoadedVerifier:
    # `name` and `in_process` are optional in other people's verifiers, so only here they are
    # asked for by name.
    name = getattr(owner, "name", None)
    is_async = inspect.iscoroutinefunction(verify) or inspect.iscoroutinefunction(
        getattr(verify, "__call__", None)  # noqa: B004 (an object with an async __call__)
    )
    return LoadedVerifier(
        name=name if isinstance(name, str) else spec,
        spec=source,
        params=dict(params),
        verify=verify,
        is_async=is_async,
        in_process=getattr(owner, "in_process", False) is True and not is_async,
    )


def _has_verify(target: Any) -> bool:
    return not inspect.isclass(target) and callable(getattr(target, "verify", None))


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
