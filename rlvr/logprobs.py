"""Log-probabilities of tokens from hidden states, without ever holding all logits.

With a vocabulary of 49k to 256k the logits of a micro-batch are larger than everything else in a
step. Here they exist one tile (some places x some of the vocabulary) at a time, in the forward pass
and again in the backward pass, which recomputes them: 8 instead of 6 x places x vocabulary x width
FLOPs, for a memory use that does not grow with the micro-batch and tiles that stay in cache.
"""

from __future__ import annotations

import itertools
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
        tiles = _tiles(len(hidden), len(weight), targets, place_of_token, chunk)
        for rows, columns, tokens, places in itertools.chain.from_iterable(tiles):
            logits = _logits(hidden[rows], weight[columns], temperature)
            chosen[tokens] = logits[places]
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
        ctx: Any, d_logprobs: Tensor, d_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """With x = logits / temperature, p = softmax(x), H the entropy and g the incoming
        gradients: dL/dx_j = sum_t g_t [j = target_t] - p_j (sum_t g_t + g_H (log p_j + H))."""
        hidden, weight, targets, place_of_token, normalizer, entropy = ctx.saved_tensors
        if d_logprobs is None:  # only the entropy was used
            d_logprobs = normalizer.new_zeros(len(targets))
        g_place = torch.zeros_like(normalizer).index_add_(0, place_of_token, d_logprobs)
        d_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for column_tiles in ctx.tiles:
            columns = column_tiles[0].columns
            part = weight[columns]
            d_part = torch.zeros_like(part, dtype=torch.float32)
            for rows, _, tokens, places in column_tiles:
                logits = _logits(hidden[rows], part, ctx.temperature)
                log_p = logits.sub_(normalizer[rows, None])
                scale = -g_place[rows, None]
                if d_entropy is not None:
                    scale = scale - d_entropy[rows, None] * (log_p + entropy[rows, None])
                d_logits = log_p.clamp_(min=SMALLEST_EXPONENT).exp_().mul_(scale)
                d_logits.index_put_(places, d_logprobs[tokens], accumulate=True)
                if ctx.temperature != 1:
                    d_logits.div_(ctx.temperature)
                d_logits = d_logits.to(hidden.dtype)
                d_hidden[rows] += d_logits @ part
                if d_weight is not None:
                    d_part += d_logits.mT @ hidden[rows]
            if d_weight is not None:
                d_weight[columns] = d_part
        return d_hidden.to(hidden.dtype), d_weight, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.mT).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _tiles(
    num_places: int, vocabulary: int, targets: Tensor, place_of_token: Tensor, chunk: int
) -> list[list[_Tile]]:
    """Tiles that cover all logits: a list for each run of columns."""
    num_chunks = -(-num_places // chunk)
    number_of_token = targets // VOCABULARY_TILE * num_chunks + place_of_token // chunk
    numbers, order = number_of_token.sort(stable=True)

    def tile(number: int, row: int, column: int) -> _Tile:
        tokens = order[bounds[number] : bounds[number + 1]]
        return _Tile(
            rows=slice(row, row + chunk),
            columns=slice(column, column + VOCABULARY_TILE),
            tokens=tokens,
            places=(place_of_token[tokens] - row, targets[tokens] - column),
        )

    corners = list(
        itertools.product(range(0, vocabulary, VOCABULARY_TILE), range(0, num_places, chunk))
    )
    edges = torch.arange(len(corners) + 1, device=numbers.device)
    bounds = torch.searchsorted(numbers, edges).tolist()
    tiles = [tile(number, row, column) for number, (column, row) in enumerate(corners)]
    return [tiles[start : start + num_chunks] for start in range(0, len(tiles), num_chunks or 1)]
