"""The policy: a Hugging Face causal language model that is asked for the log-probabilities of
packed completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rlvr.batch import MicroBatch
from rlvr.config import RunConfig
from rlvr.errors import ModelError
from rlvr.logprobs import TokenLogprobs, token_logprobs
from rlvr.tree_attention import TREE_ATTENTION, tree_blocks


class Policy(nn.Module):
    """Gives the log-probabilities of a micro-batch's completion tokens.

    Everything goes through `forward`, which is what FSDP hooks into.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, temperature: float, logits_chunk_tokens: int
    ) -> None:
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

    def adapter_disabled(self) -> AbstractContextManager[None]:
        """With LoRA, the model without its adapter: the reference model."""
        assert isinstance(self.model, PeftModel)
        return self.model.disable_adapter()

    @torch.no_grad()
    def export(
        self, masters: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Iterator[tuple[str, Tensor]]:
        """Hugging Face names and whole weights, adapters merged in, tied weights once.

        Collective when the model is sharded.

        Args:
            masters: name in this module -> the trained weight; the module's own for all others.
            dtype: of the tensors, each of which is a copy.
        """
        merged = self._adapter_updates(masters)
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                continue
            weight = full_tensor(masters.get(name, parameter))
            if name in merged:
                weight = weight.float() + merged[name]()
            yield plain_name(name), weight.to(dtype, copy=True)

    def _adapter_updates(self, masters: Mapping[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
        """Name of an adapted weight -> what its adapter adds to it, computed in fp32."""
        updates = {}
        for name, module in self.named_modules():
            if isinstance(module, LoraLayer):
                a = masters[f"{name}.lora_A.default.weight"]
                b = masters[f"{name}.lora_B.default.weight"]
                scale = module.scaling["default"]
                updates[f"{name}.base_layer.weight"] = partial(_product, b, a, scale)
        return updates

    def save(
        self, folder: Path, masters: Mapping[str, Tensor], model_dir: Path, *, write: bool
    ) -> None:
        """Write a folder that plain `transformers` and vLLM load.

        Args:
            folder: is made.
            masters: as in `export`.
            model_dir: where the tokenizer and the data type are taken from.
            write: false on ranks that only take part in gathering.
        """
        dtype = AutoConfig.from_pretrained(model_dir).dtype or torch.float32
        weights = dict(self.export(masters, dtype))
        adapter = {
            name.removeprefix("model."): full_tensor(value)
            for name, value in masters.items()
            if ".lora_" in name
        }
        if not write:
            return
        causal_lm = self.causal_lm
        own_dtype, causal_lm.config.dtype = causal_lm.config.dtype, dtype
        causal_lm.save_pretrained(folder, state_dict=weights)
        causal_lm.config.dtype = own_dtype
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(folder / "adapter", state_dict=adapter)


def plain_name(name: str) -> str:
    """The Hugging Face name of a parameter of `Policy`."""
    return (
        name.removeprefix("model.").removeprefix("base_model.model.").replace(".base_layer.", ".")
    )


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks (collective); any other as it is."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _product(b: Tensor, a: Tensor, scale: float) -> Tensor:
    return full_tensor(b).float() @ full_tensor(a).float() * scale


def load_policy(config: RunConfig, model_dir: str | Path, dtype: torch.dtype) -> Policy:
    """The model of a local folder, with dropout off and the adapters that are configured.

    Raises:
        ModelError: if it cannot be loaded.
    """
    learner = config.learner
    try:
        model = AutoModelForCausalLM.from_pretrained(
            Path(model_dir),
            dtype=dtype,
            attn_implementation=TREE_ATTENTION if learner.packing == "tree" else "sdpa",
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model in {model_dir}: {error}") from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if learner.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora := config.model.lora:
        targets = lora.target_modules
        model = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
                lora_dropout=lora.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
                task_type="CAUSAL_LM",
            ),
        )
    model.train()
    return Policy(model, config.rollout.temperature, learner.logits_chunk_tokens)


def shard(policy: Policy, compute_dtype: torch.dtype) -> None:
    """Shard the weights over all ranks with FSDP2; each layer is gathered in `compute_dtype` when
    it is needed, and gradients are reduced in fp32."""
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in policy.causal_lm.get_decoder().layers:
        fully_shard(layer, mp_policy=precision)
    fully_shard(policy, mp_policy=precision)
