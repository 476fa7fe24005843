"""Prompts as tokens: what an engine is fed, and what can be checked of it without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from rlvr.config import ModelConfig
from rlvr.errors import DataError, ModelError
from rlvr.types import Problem


def load_tokenizer(model_dir: str | Path, config: ModelConfig) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(
            model_dir, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"cannot load the tokenizer in {model_dir}: {reason}") from error


def encode_prompt(tokenizer: Any, problem: Problem, chat_template: str | None) -> list[int]:
    """The tokens of a problem's prompt; chat messages go through the chat template.

    Args:
        tokenizer: of the model.
        problem: its prompt is a text, fed raw, or chat messages.
        chat_template: `model.chat_template`.

    Raises:
        DataError: there is no chat template, or it does not take these messages.
    """
    if isinstance(problem.prompt, str):
        return tokenizer(problem.prompt)["input_ids"]
    template = None if chat_template == "none" else chat_template
    if template is None and tokenizer.chat_template is None:
        raise DataError(
            f"problem {problem.id!r} is a chat, but the model's tokenizer has no chat template: "
            "set data.chat=false to feed prompts raw, or model.chat_template"
        )
    try:
        return tokenizer.apply_chat_template(
            list(problem.prompt),
            chat_template=template,
            add_generation_prompt=True,
            return_dict=False,
        )
    except (TemplateError, ValueError) as error:
        raise DataError(
            f"problem {problem.id!r}: the chat template does not take its messages: {error}"
        ) from error
