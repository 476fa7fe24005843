"""Hashes of what a figure depends on: model, data, prompts, verifier. Equal hashes, comparable
figures; `rlvr compare` and a resumed evaluation refuse what differs."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlvr.scoring import load_verifier
from rlvr.types import Problem

MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
"""Weights, configuration, tokenizer and chat template: all that decides what is sampled."""
PIECE_BYTES = 16 << 20


def model_hash(folder: Path) -> str:
    """A hash of a model's files, names included. All bytes are read, some GB/s: vLLM is about to
    read them anyway."""
    import xxhash

    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})

    def digest(file: Path) -> str:
        state = xxhash.xxh3_128()
        with file.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                state.update(piece)
        return state.hexdigest()

    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing and reading release the GIL
        digests = pool.map(digest, files)
        return _hash([file.name, each] for file, each in zip(files, digests, strict=True))


def data_hash(problems: Iterable[Problem]) -> str:
    """Ids, gold answers, tests and metadata of the problems, in order. Prompts are `prompt_hash`'s,
    since they hold the template too."""
    return _hash(
        [problem.id, problem.answer, problem.tests, problem.metadata] for problem in problems
    )


def prompt_hash(problems: Iterable[Problem], chat_template: str | None) -> str:
    """The problems' prompts as they are sent (template, system prompt and worked examples in them),
    and the chat template that is used instead of the model's own."""
    return _hash([chat_template, *(problem.prompt for problem in problems)])


def verifier_identity(
    problems: Sequence[Problem], params: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Name, parameters and version of the verifiers that judge these problems.

    The version is a hash of the code: the verifier's module, the modules of the same package that
    it imports, and those beside them in a sub-package, without comments and layout. What other
    packages do is in `versions`.
    """
    names = sorted({problem.verifier for problem in problems})
    used = {name: dict(params.get(name, {})) for name in names}
    specs = [spec for name in names for spec in _specs(name, used[name])]
    return {
        "name": "+".join(names),
        "version": _hash([spec, _source(spec)] for spec in sorted(set(specs))),
        "params": used[names[0]] if len(names) == 1 else used,
    }


def _specs(name: str, params: Mapping[str, Any]) -> list[str]:
    """`module:attr` of a verifier, and of those that its parameters name (a composite's)."""
    return [load_verifier(name, params).spec, *_component_specs(params)]


def _component_specs(params: Mapping[str, Any]) -> list[str]:
    """Specs of a composite's `components`, and of the `function` that an adapter calls."""
    specs: list[str] = []
    for component in params.get("components") or ():
        if isinstance(component, str):
            specs += _specs(component, {})
        else:
            specs += _specs(component["verifier"], component.get("params") or {})
    if isinstance(params.get("function"), str):
        specs.append(params["function"])
    return specs


def _source(spec: str) -> list[list[str]]:
    """[name, code] of a verifier's module, and of what it imports from its own package."""
    location = spec.rpartition(":")[0]
    if location.endswith(".py"):
        return [[Path(location).name, _code(Path(location))]]
    package = location.partition(".")[0]
    found: dict[str, str] = {}
    waiting = [location]
    while waiting:
        name = waiting.pop()
        path = _module_file(name)
        if name in found or path is None:
            continue
        found[name] = _code(path)
        waiting += [each for each in _imports(path, name) if each.partition(".")[0] == package]
        if name.count(".") > 1:  # of a sub-package all: some start their own modules by name
            waiting += [
                f"{name.rpartition('.')[0]}.{file.stem}" for file in path.parent.glob("*.py")
            ]
    return sorted([name, code] for name, code in found.items())


def _module_file(name: str) -> Path | None:
    """The source of a module, found without importing it (some are heavy); null for a name inside a
    module, and for compiled code."""
    top, *below = name.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # of `__main__`, which has none
        return None
    if spec is None:
        return None
    files = [Path(spec.origin)] if spec.origin and not below else []
    if below:
        bases = [Path(folder, *below) for folder in spec.submodule_search_locations or ()]
        files = [file for base in bases for file in (Path(f"{base}.py"), base / "__init__.py")]
    return next((file for file in files if file.suffix == ".py" and file.is_file()), None)


def _imports(path: Path, name: str) -> set[str]:
    """Names that a module imports, anywhere in it: modules, and what is taken from them."""
    names: set[str] = set()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _code(path: Path) -> str:
    """A module's code without comments and layout; of what is not Python, all of it."""
    return ast.dump(ast.parse(path.read_bytes()))


def _hash(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]
