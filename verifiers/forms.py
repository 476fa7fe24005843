"""The forms a verifier may take, told apart by signature (see `verifiers.protocol`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from verifiers.errors import VerifierLoadError
from verifiers.protocol import DEFAULT_BATCH_SIZE

_THEIR_PARAMETERS = {
    "completions": "trl",
    "prompts": "trl",
    "data_source": "verl",
    "data_sources": "verl",
    "solution_str": "verl",
    "queries": "openrlhf",
}
"""First parameters that give away for whom a reward function was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVerifier:
    """A verifier whose form and signature have been checked."""

    name: str
    spec: str
    """What another process passes to `load` to get the same verifier (file paths absolute)."""
    params: Mapping[str, Any] = field(default_factory=dict)
    verify: Callable[..., Any]
    """Called with (problem, completion). Of a verifier that has only `verify_batch`, a batch of
    one; of a composite, which needs a `Runner`, it raises."""
    verify_batch: Callable[..., Any] | None = None
    """Called with (problems, completions), instead of `verify`; null if it judges one at a time."""
    compose: Callable[..., Awaitable[Any]] | None = None
    """Of a composite: called with (problem, completion, judge), see `verifiers.compose`."""
    is_async: bool
    in_process: bool
    """Sync, and declared cheap, pure and trusted enough to run without a process of its own."""
    close: Callable[[], Awaitable[None]] | None = None
    """The object's own `async def close(self)`, which gives back what it holds; null if none."""
    shapes_only: bool = False
    """A penalty or bonus: in a composite it has no say in the status (`verifiers.compose`)."""
    max_concurrency: int | None = None
    """Most calls under way at once in one `Runner`; null: as many as there are slots."""
    max_batch_size: int = DEFAULT_BATCH_SIZE
    """Most completions of one `verify_batch`."""
    timeout_s: float = 0.0
    """The verifier's own deadline, where it is longer than the runner's."""


def adapt(target: Any, spec: str, source: str, params: Mapping[str, Any]) -> LoadedVerifier:
    """The verifier that was found for `spec`, built with `params`, its form told and checked.

    Raises:
        VerifierLoadError: it cannot be built, or cannot be called as any of the forms.
    """
    if not callable(target) and not _is_verifier(target):
        raise VerifierLoadError(
            f"verifier {spec!r} is {type(target).__name__}; expected a class, a factory, or a "
            "function (problem, completion)"
        )
    if inspect.isroutine(target) or inspect.isclass(target):
        try:
            first = next(iter(inspect.signature(target).parameters), "")
        except ValueError as error:
            raise VerifierLoadError(f"verifier {spec!r} is no Python code: {error}") from error
        if adapter := _THEIR_PARAMETERS.get(first):
            raise VerifierLoadError(
                f"verifier {spec!r} takes {inspect.signature(target)}: if it is a reward function "
                f"for {adapter}, name it {adapter}:{spec}"
            )
    if inspect.isroutine(target) and _judges(target, params):
        function = functools.partial(target, **params) if params else target
        return _loaded(target, function, spec, source, params)
    instance: Any = target
    if inspect.isclass(target) or inspect.isroutine(target):
        instance = _build(target, spec, params)
    elif params:
        raise VerifierLoadError(
            f"verifier {spec!r} is a ready-made object and takes no parameters, got "
            f"{', '.join(params)}"
        )
    return _loaded(instance, None if _is_verifier(instance) else instance, spec, source, params)


def _build(factory: Callable[..., Any], spec: str, params: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(factory).bind(**params)
    except TypeError as error:
        raise VerifierLoadError(
            f"verifier {spec!r} takes {inspect.signature(factory)}: {error}"
        ) from error
    try:
        return factory(**params)
    except VerifierLoadError as error:  # a bad parameter, or a component
        raise VerifierLoadError(f"verifier {spec!r}: {error}") from error
    except Exception as error:  # the boundary to other people's constructors
        raise VerifierLoadError(
            f"verifier {spec!r} cannot be built: {type(error).__name__}: {error}"
        ) from error


def _judges(function: Callable[..., Any], params: Mapping[str, Any]) -> bool:
    """Whether (problem, completion) fit, as two positional parameters without defaults.

    The defaults tell a verifier from a factory such as `def make(scale=1, base=0)`.
    """
    parameters = inspect.signature(function).parameters
    leading = _leading(function, params)
    return bool(leading) and all(
        parameters[name].default is inspect.Parameter.empty for name in leading
    )


def _leading(function: Callable[..., Any], params: Mapping[str, Any]) -> list[str]:
    """The names of the two parameters that (problem, completion) go to; empty if they do not."""
    try:
        bound = inspect.signature(function).bind(None, None, **params)
    except TypeError:
        return []
    return list(bound.arguments)[:2]


def _loaded(
    owner: Any, function: Any, spec: str, source: str, params: Mapping[str, Any]
) -> LoadedVerifier:
    """The verifier `owner` is (its methods), or that it is as a `function` of its own."""
    # What is asked for by name here is optional in other people's verifiers.
    verify, verify_batch = _method(owner, "verify"), _method(owner, "verify_batch")
    compose, close = _method(owner, "compose"), _method(owner, "close")
    if function is not None:
        verify, verify_batch, compose = function, None, None
        if callable(function) and _leading(function, {}) == ["problems", "completions"]:
            verify, verify_batch = None, function
    if verify is None and verify_batch is not None:
        verify = _batch_of_one(verify_batch)
    if compose is not None:
        verify = _needs_runner
    for call, arguments in (
        (verify, "(problem, completion)"),
        (verify_batch, "(problems, completions)"),
    ):
        if call is not None and (not callable(call) or not _judges(call, {})):
            shape = f"{inspect.signature(call)}" if callable(call) else type(call).__name__
            raise VerifierLoadError(
                f"verifier {spec!r} cannot be called with {arguments}: it is {shape}"
            )
    assert callable(verify)
    is_async = compose is not None or _is_async(verify_batch or verify)
    name = getattr(owner, "name", None)
    return LoadedVerifier(
        name=name if isinstance(name, str) else spec,
        spec=source,
        params=dict(params),
        verify=verify,
        verify_batch=verify_batch,
        compose=compose,
        is_async=is_async,
        in_process=getattr(owner, "in_process", False) is True and not is_async,
        close=close if inspect.iscoroutinefunction(close) else None,
        shapes_only=getattr(owner, "shapes_only", False) is True,
        max_concurrency=_limit(owner, "max_concurrency", None, spec),
        max_batch_size=_limit(owner, "max_batch_size", DEFAULT_BATCH_SIZE, spec),
        timeout_s=_seconds(owner, "timeout_s", spec),
    )


def _method(owner: Any, name: str) -> Any:
    method = None if inspect.isclass(owner) else getattr(owner, name, None)
    return method if callable(method) else None


def _is_verifier(target: Any) -> bool:
    return any(_method(target, name) for name in ("verify", "verify_batch", "compose"))


def _is_async(call: Any) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 (an object with an async __call__)
    )


def _limit(owner: Any, name: str, default: Any, spec: str) -> Any:
    limit = getattr(owner, name, None)
    if limit is None:
        return default
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise VerifierLoadError(f"verifier {spec!r}: {name} is {limit!r}, expected 1 or more")
    return limit


def _seconds(owner: Any, name: str, spec: str) -> float:
    value = getattr(owner, name, None)
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise VerifierLoadError(f"verifier {spec!r}: {name} is {value!r}, expected seconds")
    return float(value)


def _batch_of_one(verify_batch: Callable[..., Any]) -> Callable[..., Any]:
    async def verify_async(problem: Any, completion: Any) -> Any:
        return (await verify_batch([problem], [completion]))[0]

    def verify(problem: Any, completion: Any) -> Any:
        return verify_batch([problem], [completion])[0]

    return verify_async if _is_async(verify_batch) else verify


def _needs_runner(problem: Any, completion: Any) -> Any:
    raise TypeError("a composite verifier is judged by a Runner (verifiers.runner), not called")
