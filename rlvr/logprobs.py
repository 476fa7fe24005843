"""Log-probabilities of tokens from hidden states, without ever holding all logits.

With a vocabulary of 49k to 256k the logits of a micro-batch are larger than everything else in a
step. Here they exist one tile (some places x some of the vocabulary) at a time, in the forward pass
and again in the backward pass, which recomputes them: 8 instead of 6 x places x vocabulary x width
FLOPs, for a memory use that does not grow with the micro-batch and tiles that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

VOCABULARY_TILE = 4096
"""Columns of a tile of logits."""

SMALLEST_EXPONENT = -80.0
"""Exponents are held above this: e^-80 adds nothing, and `exp` is slow where it underflows."""


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
        chunk: rows of a tile of logits.
    """
    logprobs, entropy = _TokenLogprobs.apply(
        hidden, weight, targets, place_of_token, temperature, chunk
    )
    return TokenLogprobs(logprobs, entropy)


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    tokens: Tensor
    """Indices of the tokens whose logit lies in the tile."""
    places: tuple[Tensor, Tensor]
    """Row and column of each of them in the tile."""


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
        """One pass with a running maximum m (Milakov and Gimelshein, arXiv:1805.02867), total
        Z = sum e^(x - m) and W = sum x e^(x - m): log p = x - m - log Z, H = m + log Z - W / Z."""
        ctx.set_materialize_grads(False)
        maximum = hidden.new_full((len(hidden),), torch.finfo(torch.float32).min, dtype=torch.float)
        total, weighted = torch.zeros_like(maximum), torch.zeros_like(maximum)
        chosen = hidden.new_empty(len(targets), dtype=torch.float32)
        tiles = list(_tiles(len(hidden), len(weight), targets, place_of_token, chunk))
        for tile in tiles:
            rows = tile.rows
            logits = _logits(hidden[rows], weight[tile.columns], temperature)
            chosen[tile.tokens] = logits[tile.places]
            highest = torch.maximum(maximum[rows], logits.amax(-1))
            rescale = (maximum[rows] - highest).exp_()
            exponentials = (logits - highest[:, None]).clamp_(min=SMALLEST_EXPONENT).exp_()
            total[rows] = total[rows] * rescale + exponentials.sum(-1)
            products = torch.bmm(exponentials[:, None], logits[:, :, None]).flatten()
            weighted[rows] = weighted[rows] * rescale + products
            maximum[rows] = highest
        normalizer = maximum + total.log()
        entropy = normalizer - weighted / total
        ctx.save_for_backward(hidden, weight, targets, place_of_token, normalizer, entropy)
        ctx.tiles, ctx.temperature = tiles, temperature
        return chosen - normalizer[place_of_token], entropy

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_logprobs: Tensor | None, d_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """With x = logits / temperature, p = softmax(x), H the entropy and g the incoming
        gradients: dL/dx_j = sum_t g_t [j = target_t] - p_j (sum_t g_t + g_H (log p_j + H))."""
        hidden, weight, targets, place_of_token, normalizer, entropy = ctx.saved_tensors
        d_logprobs = normalizer.new_zeros(len(targets)) if d_logprobs is None else d_logprobs
        g_place = torch.zeros_like(normalizer).index_add_(0, place_of_token, d_logprobs)
        d_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        d_weight = torch.zeros_like(weight)
        d_columns: Tensor | None = None
        for tile in ctx.tiles:
            rows = tile.rows
            logits = _logits(hidden[rows], weight[tile.columns], ctx.temperature)
            log_p = logits.sub_(normalizer[rows, None])
            scale = -g_place[rows, None]
            if d_entropy is not None:
                scale = scale - d_entropy[rows, None] * (log_p + entropy[rows, None])
            d_logits = log_p.clamp_(min=SMALLEST_EXPONENT).exp_().mul_(scale)
            d_logits.index_put_(tile.places, d_logprobs[tile.tokens], accumulate=True)
            if ctx.temperature != 1:
                d_logits.div_(ctx.temperature)
            d_logits = d_logits.to(hidden.dtype)
            d_hidden[rows] += d_logits @ weight[tile.columns]
            if rows.start == 0:
                d_columns = d_logits.new_zeros(d_logits.shape[1], hidden.shape[1]).float()
            assert d_columns is not None
            d_columns += d_logits.mT @ hidden[rows]
            if rows.stop >= len(hidden):
                d_weight[tile.columns] = d_columns
        return d_hidden.to(hidden.dtype), d_weight, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.mT).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _tiles(
    num_places: int, vocabulary: int, targets: Tensor, place_of_token: Tensor, chunk: int
) -> Iterator[_Tile]:
    """Tiles that cover all logits: for each run of columns, all rows."""
    num_chunks = -(-num_places // chunk)
    num_tiles = num_chunks * -(-vocabulary // VOCABULARY_TILE)
    number_of_token = targets // VOCABULARY_TILE * num_chunks + place_of_token // chunk
    numbers, order = number_of_token.sort(stable=True)
    edges = torch.arange(num_tiles + 1, device=numbers.device)
    bounds = torch.searchsorted(numbers, edges).tolist()
    for number in range(num_tiles):
        row = number % num_chunks * chunk
        column = number // num_chunks * VOCABULARY_TILE
        tokens = order[bounds[number] : bounds[number + 1]]
        yield _Tile(
            rows=slice(row, row + chunk),
            columns=slice(column, column + VOCABULARY_TILE),
            tokens=tokens,
            places=(place_of_token[tokens] - row, targets[tokens] - column),
        )
