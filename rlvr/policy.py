"""The policy: a Hugging Face causal language model that is asked for the log-probabilities of
packed completions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlvr.batch import MicroBatch, Packing, Sample, pack
from rlvr.config import LearnerConfig, LoraConfig, RunConfig
from rlvr.errors import LearnerError, ModelError
from rlvr.logprobs import TokenLogprobs, token_logprobs
from rlvr.tree_attention import TREE_ATTENTION, dense_mask, flex_mask, tree_layout

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
)
"""Copied as they are into every saved model folder."""


class Policy(nn.Module):
    """Gives the log-probabilities of a micro-batch's completion tokens.

    Everything goes through `forward`, which is what FSDP hooks into.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        temperature: float = 1.0,
        logits_chunk_tokens: int = 1024,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.logits_chunk_tokens = logits_chunk_tokens

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model itself, without adapters around it."""
        if isinstance(self.model, PeftModel):
            return cast(PreTrainedModel, self.model.get_base_model())
        return self.model

    def forward(self, batch: MicroBatch) -> TokenLogprobs:
        """[T] log-probabilities of the batch's targets, and [U] entropies of its places."""
        causal_lm = self.causal_lm
        outputs = causal_lm.get_decoder()(
            batch.token_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **self._tree_arguments(batch),
        )
        return token_logprobs(
            outputs.last_hidden_state.flatten(0, 1)[batch.places],
            cast(nn.Linear, causal_lm.get_output_embeddings()).weight,
            batch.targets,
            batch.place_of_token,
            temperature=self.temperature,
            chunk=self.logits_chunk_tokens,
        )

    def _tree_arguments(self, batch: MicroBatch) -> dict[str, Any]:
        """How each attention implementation is told of the tree."""
        if batch.subtree_end is None:
            return {}
        attention = self.causal_lm.config._attn_implementation
        if attention in ("flex_attention", "eager"):  # the mask takes the place of the model's own
            self._check_window(int(batch.position_ids.max()) + 1)
        match attention:
            case "flex_attention":
                return {"attention_mask": flex_mask(batch.subtree_end)}
            case "eager":
                return {"attention_mask": dense_mask(batch.subtree_end, self.causal_lm.dtype)}
            case _:
                return {"tree": tree_layout(batch.subtree_end, batch.position_ids)}

    def _check_window(self, depth: int) -> None:
        """Raise LearnerError if `depth` tokens are more than the model's layers look back."""
        window = getattr(self.causal_lm.config.get_text_config(), "sliding_window", None)
        if window is not None and depth > window:
            raise LearnerError(
                f"a sequence of {depth} tokens is longer than the model's sliding window of "
                f"{window}, which tree packing does not know: set learner.packing=padded"
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
            dtype: of the tensors, which may be the module's own: read them before the next step.
        """
        updates = self._adapter_updates(masters)
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                continue
            # A working copy in the wanted type is its master rounded, at half the memory traffic.
            weight = full_tensor(
                parameter if parameter.dtype == dtype else masters.get(name, parameter)
            )
            if name in updates:
                weight = weight.float() + updates[name]()
            yield plain_name(name), weight.to(dtype)

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
        dtype = _source_dtype(model_dir)
        weights = dict(self.export(masters, dtype))
        adapter = {
            name.removeprefix("model."): full_tensor(value)
            for name, value in masters.items()
            if ".lora_" in name
        }
        if not write:
            return
        self.causal_lm.save_pretrained(str(folder), state_dict=weights)
        for weights_file in folder.glob("*.safetensors"):  # safetensors makes it private
            shutil.copymode(folder / "config.json", weights_file)
        # transformers writes the data type that the module computes in
        file = folder / "config.json"
        saved = json.loads(file.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
        file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
        for pattern in TOKENIZER_FILES:
            for file in model_dir.glob(pattern):
                shutil.copy2(file, folder / file.name)
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(str(folder / "adapter"), state_dict=adapter)


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


def _source_dtype(model_dir: Path) -> torch.dtype:
    """What the weights in a model folder are stored as."""
    config = json.loads((model_dir / "config.json").read_text())
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")


def load_policy(
    config: RunConfig, model_dir: Path, dtype: torch.dtype, device: torch.device
) -> Policy:
    """The model of a local folder, with dropout off and the adapters that are configured.

    Raises:
        ModelError: it cannot be loaded.
    """
    settings = config.learner
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=dtype,
            attn_implementation=_attention(settings, device),
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model in {model_dir}: {error}") from error
    _switch_dropout_off(model)
    model.to(device).train()  # transformers checkpoints gradients in training mode only
    policy = Policy(
        model,
        temperature=config.rollout.temperature,
        logits_chunk_tokens=settings.logits_chunk_tokens,
    )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.model.lora:
        policy.model = _with_adapters(model, config.model.lora)
    return policy


def _switch_dropout_off(model: nn.Module) -> None:
    """The sampler has none. Some layers keep the rate in a module, others (attention) as a number
    that they hand to a function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _attention(settings: LearnerConfig, device: torch.device) -> str | None:
    """As transformers takes it; null for its own choice."""
    choice = settings.attn_implementation
    if settings.packing == "padded":
        return None if choice == "auto" else choice
    if choice == "auto":
        return "flex_attention" if device.type == "cuda" else TREE_ATTENTION
    return TREE_ATTENTION if choice == "sdpa" else choice


def _with_adapters(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    targets = lora.target_modules
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        return cast(PeftModel, get_peft_model(model, settings))
    except ValueError as error:
        raise ModelError(f"model.lora does not fit {type(model).__name__}: {error}") from error


@torch.no_grad()
def check_logprobs(policy: Policy, packing: Packing) -> None:
    """Compare a tiny packed micro-batch with the model's own forward pass, sequence by sequence,
    in fp32.

    This finds every architecture that tree packing (attention that ignores the mask, recurrent
    layers) or our output layer (soft-capped or scaled logits) would silently compute wrongly.

    Raises:
        ModelError: they differ.
    """
    prompt, completions = (5, 3, 9, 4), [(7, 8, 6), (7, 2, 5, 1), (3,)]
    samples = [
        Sample.of_tokens(prompt, completion, member=member)
        for member, completion in enumerate(completions)
    ]
    causal_lm = policy.causal_lm
    device = causal_lm.device
    (batch,) = pack(samples, packing=packing, max_tokens=1000)
    packed = policy(batch.to(device)).logprobs
    own_attention = str(causal_lm.config._attn_implementation)
    causal_lm.set_attn_implementation("eager")  # the one that every architecture has
    plain = []
    for completion in completions:
        inputs = torch.tensor([prompt + completion[:-1]], device=device)
        logits = causal_lm(inputs, use_cache=False).logits[0, len(prompt) - 1 :].float()
        targets = torch.tensor(completion, device=device)[:, None]
        logprobs = (logits / policy.temperature).log_softmax(-1)
        plain.append(logprobs.gather(-1, targets).flatten())
    causal_lm.set_attn_implementation(own_attention)
    difference = float((packed - torch.cat(plain)).abs().max())
    if not difference < 1e-3:
        way_out = (
            "set learner.packing=padded"
            if packing == "tree"
            else "this architecture cannot be trained"
        )
        raise ModelError(
            f"{type(causal_lm).__name__} with learner.packing={packing} gives other "
            f"log-probabilities than by itself (by {difference:.3g} nats): {way_out}"
        )


def shard(policy: Policy, compute_dtype: torch.dtype) -> None:
    """Shard the weights over all ranks with FSDP2; each layer is gathered in `compute_dtype` when
    it is needed, and gradients are reduced in fp32."""
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in cast(Any, policy.causal_lm.get_decoder()).layers:
        fully_shard(layer, mp_policy=precision)
    fully_shard(policy, mp_policy=precision)
