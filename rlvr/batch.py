"""Groups -> packed tensors: each group a prefix tree, so that what its completions share is
computed once.

The completions of a group share their prompt, often their first tokens, and sometimes everything;
branches of a multi-turn rollout share whole turns. Packing a group as a *trie* over its token
sequences computes every distinct prefix exactly once. The nodes of a micro-batch lie in one row, in
depth-first order, so that the descendants of node `u` are the nodes `u + 1 ... subtree_end[u] - 1`
and one comparison of intervals tells who may attend to whom::

    prompt a b, completions c d, c e and (again) c d:

    node         0  1  2          node  token  position  subtree_end
    token        a--b--c           0      a       0          3
    next token         d, e        1      b       1          3
                                   2      c       2          3

The last token of a completion is predicted but never read, so it is no node (d and e above). A node
predicts all its continuations: the logits of `b` serve every completion's first token.

Padded rows (one completion a row, ordinary causal attention) are the slow reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Packing = Literal["tree", "padded"]
Indices = np.ndarray
"""int64, one-dimensional."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion that is to be computed, and where it stands in its batch."""

    group: int
    """Position of its group in the batch."""
    member: int
    """Position in its group."""
    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    """[T] The completion."""
    sampler_logprobs: tuple[float, ...]
    """[T]"""
    advantage: float
    weight: float
    """Aggregation weight of each of its tokens."""

    @classmethod
    def of_tokens(
        cls, prompt: tuple[int, ...], completion: tuple[int, ...], *, group: int = 0, member: int
    ) -> Sample:
        """Bare tokens, for checks."""
        return cls(
            group=group,
            member=member,
            prompt=prompt,
            token_ids=completion,
            sampler_logprobs=(0.0,) * len(completion),
            advantage=0.0,
            weight=0.0,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def inputs(self) -> tuple[int, ...]:
        """[prompt length + T - 1] What is fed to the model: its last token is only predicted."""
        return self.prompt + self.token_ids[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A trie over token sequences, its nodes in depth-first order (N nodes)."""

    token_ids: Indices
    """[N]"""
    depth: Indices
    """[N] Distance from the root: the position id."""
    subtree_end: Indices
    """[N] One past the last descendant: `u` is `v` or an ancestor of it if and only if
    `u <= v < subtree_end[u]`."""
    paths: tuple[Indices, ...]
    """[S][length] The node of every token of every sequence, in the order they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward pass computes: R rows of L tokens, that predict T completion tokens of S
    sequences from U distinct places. A tree is one row (R = 1, L = N nodes)."""

    token_ids: Tensor
    """[R, L]"""
    position_ids: Tensor
    """[R, L]"""
    subtree_end: Tensor | None
    """[N] Of a tree; null for padded rows."""
    places: Tensor
    """[U] Ascending positions in the flattened [R * L] whose next-token distribution is needed."""
    place_of_token: Tensor
    """[T] Index into `places`: where each completion token is predicted."""
    targets: Tensor
    """[T] The completion tokens, sequence after sequence."""
    sampler_logprobs: Tensor
    """[T] float32"""
    advantages: Tensor
    """[T] float32"""
    weights: Tensor
    """[T] float32 aggregation weights, relative to the whole batch."""
    sequence_index: Tensor
    """[T] Which of the S sequences a token belongs to."""
    samples: tuple[Sample, ...]
    """[S]"""

    @property
    def num_nodes(self) -> int:
        """Tokens computed, padding included."""
        return self.token_ids.numel()

    @property
    def num_padded(self) -> int:
        """Tokens that padded rows of the same sequences would compute, group by group."""
        longest: dict[int, list[int]] = {}
        for sample in self.samples:
            longest.setdefault(sample.group, []).append(len(sample.inputs))
        return sum(len(lengths) * max(lengths) for lengths in longest.values())

    def to(self, device: torch.device) -> MicroBatch:
        """A copy on `device`; itself when it is there already."""
        if self.token_ids.device == device:
            return self
        tensors = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut a flat [T] tensor into one tensor for each sequence."""
        return list(values.split([s.num_tokens for s in self.samples]))


def build_tree(sequences: Sequence[tuple[int, ...]]) -> Tree:
    """The trie over `sequences` (not empty, none of them empty; they may repeat, or be prefixes of
    each other).

    In sorted order each sequence leaves its predecessor's path at one point and never comes back to
    it, so appending what is new gives depth-first order.
    """
    tokens = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    paths: list[Indices] = [np.empty(0, np.int64)] * len(tokens)
    new_tokens: list[Indices] = []
    new_depths: list[Indices] = []
    subtree_end = np.zeros(sum(map(len, tokens)), np.int64)
    num_nodes = 0
    previous, path = np.empty(0, np.int64), np.empty(0, np.int64)
    for index in sorted(range(len(tokens)), key=lambda index: sequences[index]):
        current = tokens[index]
        shared = _common_prefix(previous, current)
        subtree_end[path[shared:]] = num_nodes
        added = len(current) - shared
        path = np.concatenate([path[:shared], np.arange(num_nodes, num_nodes + added)])
        new_tokens.append(current[shared:])
        new_depths.append(np.arange(shared, len(current)))
        num_nodes += added
        paths[index], previous = path, current
    subtree_end[path] = num_nodes
    return Tree(
        token_ids=np.concatenate(new_tokens),
        depth=np.concatenate(new_depths),
        subtree_end=subtree_end[:num_nodes],
        paths=tuple(paths),
    )


def _common_prefix(a: Indices, b: Indices) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def pack(
    samples: Sequence[Sample],
    *,
    packing: Packing,
    max_tokens: int,
    num_ranks: int = 1,
    rank: int = 0,
) -> list[MicroBatch]:
    """The micro-batches of one rank. All ranks get equally many, since each forward and backward
    pass is a collective operation; a rank that runs out of work gets empty ones.

    A group stays together, unless it alone exceeds the budget: then its completions are halved
    until the parts fit or are single completions.

    Args:
        samples: of the whole batch, the same on every rank; none without tokens.
        packing: `tree` or `padded`.
        max_tokens: budget of a micro-batch in computed tokens, padding included. Exceeded only by
            a single completion that is longer.
        num_ranks: of the learner.
        rank: whose micro-batches to return.
    """
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    parts = [
        part for group in groups.values() for part in _fitting_parts(group, packing, max_tokens)
    ]
    bins = _partition([part.num_nodes for part in parts], max_tokens, num_ranks)
    return [
        _assemble([parts[index] for index in chosen], packing) for chosen in bins[rank::num_ranks]
    ]


@dataclass(frozen=True, slots=True)
class _Part:
    """A group, or what of it fits into one micro-batch."""

    samples: list[Sample]
    tree: Tree | None
    num_nodes: int


def _fitting_parts(samples: list[Sample], packing: Packing, max_tokens: int) -> list[_Part]:
    inputs = [sample.inputs for sample in samples]
    if packing == "tree":
        tree = build_tree(inputs)
        num_nodes = len(tree.token_ids)
    else:
        tree = None
        num_nodes = len(inputs) * max(map(len, inputs))
    if num_nodes <= max_tokens or len(samples) == 1:
        return [_Part(samples, tree, num_nodes)]
    ordered = sorted(samples, key=lambda sample: sample.inputs)  # neighbours share most
    half = len(ordered) // 2
    return _fitting_parts(ordered[:half], packing, max_tokens) + _fitting_parts(
        ordered[half:], packing, max_tokens
    )


def _partition(costs: list[int], capacity: int, num_ranks: int) -> list[list[int]]:
    """Indices of `costs` in as few bins as fit them (a multiple of `num_ranks`), of about equal
    cost: largest first, each into the bin that is emptiest. Bins are returned largest first."""
    if not costs:
        return []
    rounds = -(-min(-(-sum(costs) // capacity), len(costs)) // num_ranks)
    while True:
        bins: list[list[int]] = [[] for _ in range(rounds * num_ranks)]
        loads = [0] * len(bins)
        for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
            emptiest = loads.index(min(loads))
            bins[emptiest].append(index)
            loads[emptiest] += costs[index]
        if all(load <= capacity or len(b) == 1 for load, b in zip(loads, bins, strict=True)):
            order = sorted(range(len(bins)), key=lambda index: -loads[index])
            return [sorted(bins[index]) for index in order]
        rounds += 1


def _assemble(parts: list[_Part], packing: Packing) -> MicroBatch:
    if not parts:  # one token that predicts nothing
        zero = np.zeros((1, 1), np.int64)
        return _micro_batch([], zero, zero, [], np.ones(1, np.int64) if packing == "tree" else None)
    samples = [sample for part in parts for sample in part.samples]
    trees = [part.tree for part in parts if part.tree is not None]
    if trees:
        starts = np.cumsum([0, *(len(tree.token_ids) for tree in trees)])
        token_ids = np.concatenate([tree.token_ids for tree in trees])[None]
        positions = np.concatenate([tree.depth for tree in trees])[None]
        ends = [tree.subtree_end + start for tree, start in zip(trees, starts, strict=False)]
        paths = [p + start for tree, start in zip(trees, starts, strict=False) for p in tree.paths]
        return _micro_batch(samples, token_ids, positions, paths, np.concatenate(ends))
    inputs = [sample.inputs for sample in samples]
    length = max(map(len, inputs))
    token_ids = np.zeros((len(inputs), length), np.int64)
    for row, ids in enumerate(inputs):
        token_ids[row, : len(ids)] = ids
    positions = np.broadcast_to(np.arange(length), token_ids.shape).copy()
    paths = [np.arange(len(ids)) + row * length for row, ids in enumerate(inputs)]
    return _micro_batch(samples, token_ids, positions, paths, None)


def _micro_batch(
    samples: list[Sample],
    token_ids: np.ndarray,
    positions: np.ndarray,
    paths: list[Indices],
    subtree_end: Indices | None,
) -> MicroBatch:
    """`paths` [S] hold the flat position of each input token of each sample."""
    predicting = [
        path[len(sample.prompt) - 1 :] for sample, path in zip(samples, paths, strict=True)
    ]
    places, place_of_token = np.unique(
        np.concatenate([*predicting, np.empty(0, np.int64)]), return_inverse=True
    )
    lengths = torch.tensor([sample.num_tokens for sample in samples], dtype=torch.long)

    def per_token(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).repeat_interleave(lengths)

    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        position_ids=torch.from_numpy(positions),
        subtree_end=None if subtree_end is None else torch.from_numpy(subtree_end),
        places=torch.from_numpy(places),
        place_of_token=torch.from_numpy(place_of_token),
        targets=torch.tensor([t for s in samples for t in s.token_ids], dtype=torch.long),
        sampler_logprobs=torch.tensor([p for s in samples for p in s.sampler_logprobs]),
        advantages=per_token([sample.advantage for sample in samples]),
        weights=per_token([sample.weight for sample in samples]),
        sequence_index=torch.arange(len(samples)).repeat_interleave(lengths),
        samples=tuple(samples),
    )
