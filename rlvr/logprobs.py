"""Log-probabilities of tokens from hidden states, without ever holding all logits.

With a vocabulary of 49k to 256k the logits of a micro-batch are larger than everything else in a
step. Here they exist for a few rows at a time, in the forward pass and again in the backward pass,
which recomputes them: 8 instead of 6 x rows x vocabulary x width FLOPs buys a memory use that does
not grow with the micro-batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class TokenLogprobs(NamedTuple):
    """Both float32, in nats, with gradient."""

    logprobs: Tensor
    """[T] log pi of each target."""
    entropy: Tensor
    """[U] Entropy of the next-token distribution at each place."""


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    place_of_token: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> TokenLogprobs:
    """log softmax(hidden @ weight.T / temperature) at `targets`, and the entropy.

    Several targets may share a place: the first tokens of a group's completions all continue the
    prompt's last token.

    Args:
        hidden: [U, width] hidden states at the places that predict something.
        weight: [vocabulary, width] of the output layer.
        targets: [T] token ids.
        place_of_token: [T] the row of `hidden` that predicts each target.
        temperature: the sampler's; its log-probabilities are taken after it.
        chunk: rows whose logits are held at once.
    """
    logprobs, entropy = _TokenLogprobs.apply(
        hidden, weight, targets, place_of_token, temperature, chunk
    )
    return TokenLogprobs(logprobs, entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        place_of_token: Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        num_places = len(hidden)
        normalizer = hidden.new_empty(num_places, dtype=torch.float32)
        entropy = hidden.new_empty(num_places, dtype=torch.float32)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        order, bounds = _tokens_by_chunk(place_of_token, num_places, chunk)
        for number, start in enumerate(range(0, num_places, chunk)):
            rows = slice(start, start + chunk)
            logits = _logits(hidden[rows], weight, temperature)
            tokens = order[bounds[number] : bounds[number + 1]]
            chosen = logits[place_of_token[tokens] - start, targets[tokens]]
            normalizer[rows] = logits.logsumexp(-1)
            logprobs[tokens] = chosen - normalizer[place_of_token[tokens]]
            probabilities = logits.sub(normalizer[rows, None]).exp_()
            # sum p x = normalizer - entropy
            entropy[rows] = normalizer[rows] - torch.linalg.vecdot(probabilities, logits)
        ctx.save_for_backward(hidden, weight, targets, place_of_token, normalizer, entropy)
        ctx.order, ctx.bounds, ctx.temperature, ctx.chunk = order, bounds, temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_logprobs: Tensor | None, d_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """With x = logits / temperature, p = softmax(x), H the entropy and g the incoming
        gradients: dL/dx_j = sum_t g_t [j = target_t] - p_j sum_t g_t - g_H p_j (log p_j + H)."""
        hidden, weight, targets, place_of_token, normalizer, entropy = ctx.saved_tensors
        if d_logprobs is None:
            d_logprobs = normalizer.new_zeros(len(targets))
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        g_place = normalizer.new_zeros(len(hidden)).index_add_(0, place_of_token, d_logprobs)
        for number, start in enumerate(range(0, len(hidden), ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            log_p = _logits(hidden[rows], weight, ctx.temperature).sub_(normalizer[rows, None])
            scale = -g_place[rows, None]
            if d_entropy is not None:
                scale = scale - d_entropy[rows, None] * (log_p + entropy[rows, None])
            d_logits = log_p.exp_().mul_(scale)
            tokens = ctx.order[ctx.bounds[number] : ctx.bounds[number + 1]]
            d_logits.index_put_(
                (place_of_token[tokens] - start, targets[tokens]), d_logprobs[tokens], True
            )
            d_logits = d_logits.div_(ctx.temperature).to(hidden.dtype)
            d_hidden[rows] = d_logits @ weight
            d_weight += d_logits.t() @ hidden[rows]
        return d_hidden, d_weight.to(weight.dtype), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return (hidden @ weight.t()).float().div_(temperature)


def _tokens_by_chunk(
    place_of_token: Tensor, num_places: int, chunk: int
) -> tuple[Tensor, list[int]]:
    """Token indices in the order of their places, and where each chunk of places begins in it."""
    places, order = place_of_token.sort(stable=True)
    starts = torch.arange(0, num_places + chunk, chunk, device=places.device)
    return order, torch.searchsorted(places, starts).tolist()
