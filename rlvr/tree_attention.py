"""Attention over prefix trees: every token sees its ancestors and itself.

Nodes are in depth-first order, so `u` is `v` or an ancestor of it if and only if
`u <= v < subtree_end[u]`. From this follows how little a run of consecutive nodes (a *block*) has
to look at: every ancestor of any of its nodes that lies before the block is an ancestor of the
block's first node. The keys of a block are the path to its first node, and the block itself: a
micro-batch of many groups, or a long group of many branches, costs what its sequences cost and not
the square of its nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rlvr.errors import LearnerError
from rlvr.logprobs import SMALLEST_EXPONENT

TREE_ATTENTION = "rlvr_tree"
"""Name under which `tree_attention` is registered with transformers."""

BLOCK_SIZE = 128
"""Queries of a block. Larger ones do more useless work, smaller ones more Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive queries and all that they may see."""

    queries: slice
    keys: Tensor | slice
    """[K] Ascending node indices, or the same as a slice."""
    bias: Tensor
    """[queries, K] float32, added to the scores: 0 where the query sees the key, else -inf."""


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """What the attention of one micro-batch is computed from."""

    blocks: tuple[Block, ...]
    depth: int
    """Tokens of the longest path."""


def tree_layout(
    subtree_end: Tensor, position_ids: Tensor, block_size: int = BLOCK_SIZE
) -> TreeLayout:
    """Cut the nodes into blocks of at most `block_size`, anew at each root.

    Args:
        subtree_end: [N] int64.
        position_ids: [N] or [1, N] int64.
        block_size: see `BLOCK_SIZE`.
    """
    blocks = []
    root = 0
    while root < len(subtree_end):
        root_end = int(subtree_end[root])
        for start in range(root, root_end, block_size):
            stop = min(start + block_size, root_end)
            before = root + torch.nonzero(subtree_end[root:start] > start).flatten()
            own = torch.arange(start, stop, device=subtree_end.device)
            keys = torch.cat([before, own])
            seen = visible(own[:, None], keys[None], subtree_end)
            blocks.append(
                Block(
                    queries=slice(start, stop),
                    keys=keys if len(before) else slice(start, stop),
                    bias=additive_mask(seen, torch.float32),
                )
            )
        root = root_end
    return TreeLayout(tuple(blocks), int(position_ids.max()) + 1)


def visible(query: Tensor, key: Tensor, subtree_end: Tensor) -> Tensor:
    """Whether a query may look at a key: the one rule that all implementations share."""
    return (key <= query) & (query < subtree_end[key])


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `seen`, else -inf."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def dense_mask(subtree_end: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, 1, N, N] Additive mask of a whole tree, for attention that knows no blocks."""
    nodes = torch.arange(len(subtree_end), device=subtree_end.device)
    return additive_mask(visible(nodes[:, None], nodes[None], subtree_end), dtype)[None, None]


def flex_mask(subtree_end: Tensor) -> BlockMask:
    """The tree as FlexAttention takes it; blocks that nobody sees are skipped (GPU)."""
    num_nodes = len(subtree_end)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key, subtree_end)

    return create_block_mask(seen, None, None, num_nodes, num_nodes, device=str(subtree_end.device))


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: TreeLayout,
    scaling: float,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as `transformers.AttentionInterface` calls them.

    Args:
        module: the attention layer.
        query: [1, query heads, N, head width]
        key: [1, key heads, N, head width]
        value: [1, key heads, N, head width]
        attention_mask: unused, `tree` has it all.
        tree: passed through the model's forward.
        scaling: of the scores.
        sliding_window: of the layer, in tokens.

    Returns:
        [1, N, query heads, head width], and no attention weights.

    Raises:
        LearnerError: a sequence is longer than the layer's sliding window.
    """
    if sliding_window is not None and tree.depth > sliding_window:
        raise LearnerError(
            f"a sequence of {tree.depth} tokens is longer than the model's sliding window of "
            f"{sliding_window}, which tree packing does not know: set learner.packing=padded"
        )
    if query.device.type == "cpu":
        output = _TreeAttentionCpu.apply(query, key, value, tree.blocks, scaling)
    else:
        outputs = [
            scaled_dot_product_attention(
                query[:, :, block.queries],
                key[:, :, block.keys],
                value[:, :, block.keys],
                attn_mask=block.bias.to(query.dtype),
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            for block in tree.blocks
        ]
        output = torch.cat(outputs, dim=2)
    return output.transpose(1, 2), None


class _TreeAttentionCpu(torch.autograd.Function):
    """PyTorch's flash kernel forward; backward from its log-sum-exp with plain matrix products,
    which is about three times as fast as the kernel's own backward (bf16, AVX-512)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: tuple[Block, ...],
        scaling: float,
    ) -> Tensor:
        repeats = query.shape[1] // key.shape[1]
        output = torch.empty_like(query)
        normalizers = []
        for block in blocks:
            part, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, block.queries],
                key[:, :, block.keys].repeat_interleave(repeats, dim=1),
                value[:, :, block.keys].repeat_interleave(repeats, dim=1),
                attn_mask=block.bias[None, None],
                scale=scaling,
            )
            output[:, :, block.queries] = part
            normalizers.append(normalizer)
        ctx.save_for_backward(query, key, value, output, *normalizers)
        ctx.blocks, ctx.scaling = blocks, scaling
        return output

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: Tensor
    ) -> tuple[Tensor | None, ...]:
        """FlashAttention-2, algorithm 2 (arXiv:2307.08691): P = exp(S - L), D = rowsum(dO * O),
        dS = P * (dO V^T - D), dQ = dS K, dK = dS^T Q, dV = P^T dO. Scores and dS are fp32."""
        query, key, value, output, *normalizers = ctx.saved_tensors
        num_heads, width = key.shape[1], key.shape[3]
        d_query = torch.empty_like(query)
        d_key = torch.zeros_like(key[0], dtype=torch.float32)
        d_value = torch.zeros_like(d_key)

        def by_key_head(tensor: Tensor, block: Block) -> Tensor:
            """[key heads, query heads of each * queries, width]: query heads that share a key head
            become rows of one matrix."""
            return tensor[0, :, block.queries].reshape(num_heads, -1, width)

        for block, normalizer in zip(ctx.blocks, normalizers, strict=True):
            q, o, d_o = (by_key_head(t, block) for t in (query, output, d_output))
            k, v = key[0, :, block.keys], value[0, :, block.keys]
            scores = (q.float() * ctx.scaling) @ k.float().mT
            scores.view(num_heads, -1, *block.bias.shape).add_(block.bias)
            scores.sub_(normalizer.reshape(num_heads, -1, 1))
            p = scores.clamp_(min=SMALLEST_EXPONENT).exp_()
            delta = (d_o.float() * o.float()).sum(-1, keepdim=True)
            d_scores = (d_o.float() @ v.float().mT).sub_(delta).mul_(p).to(q.dtype)
            d_query[0, :, block.queries] = (d_scores @ k).view(
                -1, *d_query[0, 0, block.queries].shape
            )
            d_query[0, :, block.queries] *= ctx.scaling
            d_k, d_v = d_scores.mT @ q, p.to(q.dtype).mT @ d_o
            if isinstance(block.keys, slice):
                d_key[:, block.keys] += d_k
                d_value[:, block.keys] += d_v
            else:
                d_key.index_add_(1, block.keys, d_k.float())
                d_value.index_add_(1, block.keys, d_v.float())
        d_key *= ctx.scaling
        return d_query, d_key[None].to(key.dtype), d_value[None].to(value.dtype), None, None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
