"""The policy: a Hugging Face causal language model that is asked for the log-probabilities of
packed completions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rlvr.batch import MicroBatch
from rlvr.config import RunConfig
from rlvr.errors import ModelError
from rlvr.logprobs import TokenLogprobs, token_logprobs
from rlvr.tree_attention import TREE_ATTENTION, tree_blocks


class Policy(nn.Module):
    """Gives the log-probabilities of a micro-batch's completion tokens.

    Everything goes through `forward`, which is what FSDP hooks into.
    """

    def __init__(self, model: nn.Module, temperature: float, logits_chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.logits_chunk_tokens = logits_chunk_tokens

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model itself, without adapters around it."""
        return (
            self.model if isinstance(self.model, PreTrainedModel) else self.model.get_base_model()
        )

    def forward(self, batch: MicroBatch) -> TokenLogprobs:
        """[T] log-probabilities of the batch's targets, and [U] entropies of its places."""
        causal_lm = self.causal_lm
        if batch.subtree_end is None:
            outputs = causal_lm.get_decoder()(batch.token_ids, use_cache=False)
        else:
            outputs = causal_lm.get_decoder()(
                batch.token_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                tree=tree_blocks(batch.subtree_end),
            )
        hidden = outputs.last_hidden_state.flatten(0, 1)[batch.places]
        return token_logprobs(
            hidden,
            causal_lm.get_output_embeddings().weight,
            batch.targets,
            batch.place_of_token,
            temperature=self.temperature,
            chunk=self.logits_chunk_tokens,
        )


def load_policy(config: RunConfig, model_dir: str, dtype: torch.dtype) -> Policy:
    """The model of a local folder, dropout off.

    Raises:
        ModelError: if it cannot be loaded.
    """
    learner = config.learner
    attention = TREE_ATTENTION if learner.packing == "tree" else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            Path(model_dir),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model in {model_dir}: {error}") from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if learner.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Policy(model, config.rollout.temperature, learner.logits_chunk_tokens)
