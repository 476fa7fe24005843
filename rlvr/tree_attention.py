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
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rlvr.errors import ModelError

TREE_ATTENTION = "rlvr_tree"
"""Name under which `tree_attention` is registered with transformers."""

BLOCK_SIZE = 256
"""Queries of a block. Larger ones do more useless work, smaller ones more Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive queries and all that they may see."""

    queries: slice
    keys: Tensor | slice
    """[K] Ascending node indices, or the same as a slice."""
    mask: Tensor
    """[1, 1, queries, K] bool; true where the query sees the key."""


def tree_blocks(subtree_end: Tensor, block_size: int = BLOCK_SIZE) -> list[Block]:
    """Cut the nodes into blocks of at most `block_size`, anew at each root.

    Args:
        subtree_end: [N] int64.
        block_size: see `BLOCK_SIZE`.
    """
    blocks = []
    num_nodes = len(subtree_end)
    root = 0
    while root < num_nodes:
        root_end = int(subtree_end[root])
        for start in range(root, root_end, block_size):
            stop = min(start + block_size, root_end)
            before = root + torch.nonzero(subtree_end[root:start] > start).flatten()
            own = torch.arange(start, stop, device=subtree_end.device)
            keys = torch.cat([before, own])
            mask = visible(own[:, None], keys[None], subtree_end)
            blocks.append(
                Block(
                    queries=slice(start, stop),
                    keys=keys if len(before) else slice(start, stop),
                    mask=mask[None, None],
                )
            )
        root = root_end
    return blocks


def visible(query: Tensor, key: Tensor, subtree_end: Tensor) -> Tensor:
    """Whether a query may look at a key: the one rule that all implementations share."""
    return (key <= query) & (query < subtree_end[key])


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: list[Block],
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
    """
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(
            query[:, :, block.queries],
            key[:, :, block.keys],
            value[:, :, block.keys],
            attn_mask=block.mask,
            scale=scaling,
            enable_gqa=grouped,
        )
        for block in tree
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
