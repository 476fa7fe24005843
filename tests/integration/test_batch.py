"""Packing: the trie against its definition, and micro-batches against what they must contain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.batch import MicroBatch, Sample, build_tree, pack
from rlvr.tree_attention import additive_mask, dense_mask, flex_mask, tree_layout, visible

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)
"""Three token ids only: shared prefixes, repeats and prefixes of each other are common."""
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=8)


def make_samples(
    prompts: list[tuple[int, ...]], completions: list[list[tuple[int, ...]]]
) -> list[Sample]:
    return [
        Sample(
            group=group,
            member=member,
            prompt=prompt,
            token_ids=completion,
            sampler_logprobs=tuple(-0.1 * (i + 1) for i in range(len(completion))),
            advantage=group + member / 10,
            weight=0.5,
        )
        for group, prompt in enumerate(prompts)
        for member, completion in enumerate(completions[group])
    ]


def dense_visible(micro: MicroBatch) -> torch.Tensor:
    assert micro.subtree_end is not None
    nodes = torch.arange(len(micro.subtree_end))
    return visible(nodes[:, None], nodes[None], micro.subtree_end)


@given(SEQUENCES)
def test_every_distinct_prefix_is_one_node(sequences: list[tuple[int, ...]]) -> None:
    tree = build_tree(sequences)
    prefixes = {s[:n] for s in sequences for n in range(1, len(s) + 1)}
    assert len(tree.token_ids) == len(prefixes)


@given(SEQUENCES)
def test_paths_spell_their_sequences(sequences: list[tuple[int, ...]]) -> None:
    tree = build_tree(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tuple(tree.token_ids[path]) == sequence
        assert tree.depth[path].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_a_node_sees_its_ancestors_and_itself_only(sequences: list[tuple[int, ...]]) -> None:
    tree = build_tree(sequences)
    ancestors = {
        int(path[n]): set(path[: n + 1].tolist()) for path in tree.paths for n in range(len(path))
    }
    ends = torch.from_numpy(tree.subtree_end)
    nodes = torch.arange(len(ends))
    seen = visible(nodes[:, None], nodes[None], ends)
    assert {v: set(torch.nonzero(seen[v]).flatten().tolist()) for v in nodes.tolist()} == ancestors


def test_worked_example_of_the_module() -> None:
    a, b, c, d, e = range(5)
    samples = make_samples([(a, b)], [[(c, d), (c, e), (c, d)]])
    (micro,) = pack(samples, packing="tree", max_tokens=100)
    assert micro.token_ids.tolist() == [[a, b, c]]
    assert micro.position_ids.tolist() == [[0, 1, 2]]
    assert micro.subtree_end is not None and micro.subtree_end.tolist() == [3, 3, 3]
    assert micro.places.tolist() == [1, 2]
    assert micro.place_of_token.tolist() == [0, 1] * 3
    assert micro.targets.tolist() == [c, d, c, e, c, d]
    assert micro.sequence_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert micro.advantages.tolist() == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert micro.num_padded == 9


@given(
    st.lists(TOKENS, min_size=1, max_size=4),
    st.data(),
    st.sampled_from(["tree", "padded"]),
    st.integers(1, 40),
    st.integers(1, 3),
)
def test_every_token_is_packed_once_and_predicted_from_its_own_prefix(
    prompts: list[tuple[int, ...]], data: st.DataObject, packing, max_tokens: int, num_ranks: int
) -> None:
    completions = [data.draw(st.lists(TOKENS, min_size=1, max_size=5)) for _ in prompts]
    samples = make_samples(prompts, completions)
    ranks = [
        pack(samples, packing=packing, max_tokens=max_tokens, num_ranks=num_ranks, rank=rank)
        for rank in range(num_ranks)
    ]
    assert len({len(micros) for micros in ranks}) == 1, "collectives need equally many"
    found = []
    for micro in [micro for micros in ranks for micro in micros]:
        tokens, positions = micro.token_ids.flatten(), micro.position_ids.flatten()
        width = micro.token_ids.shape[1]
        at = 0
        for sample in micro.samples:
            found.append((sample.group, sample.member))
            for number, token in enumerate(sample.token_ids):
                place = int(micro.places[micro.place_of_token[at]])
                if micro.subtree_end is not None:
                    seen = torch.nonzero(dense_visible(micro)[place]).flatten()
                else:
                    seen = torch.arange(place // width * width, place + 1)
                prefix = sample.prompt + sample.token_ids[:number]
                assert tuple(tokens[seen].tolist()) == prefix
                assert positions[seen].tolist() == list(range(len(prefix)))
                assert int(micro.targets[at]) == token
                assert float(micro.advantages[at]) == pytest.approx(sample.advantage)
                at += 1
        assert at == len(micro.targets) == len(micro.sampler_logprobs) == len(micro.weights)
        if len(micro.samples) > 1:
            assert micro.num_nodes <= max(
                max_tokens, width * len(micro.samples) * (micro.subtree_end is None)
            )
    assert sorted(found) == [(s.group, s.member) for s in samples]


def test_groups_stay_together_within_the_budget_and_are_split_beyond_it() -> None:
    samples = make_samples([(1,) * 10, (2,) * 10], [[(3, 4), (5, 6)], [(7, 8), (9, 10)]])
    assert len(pack(samples, packing="tree", max_tokens=24)) == 1
    together = pack(samples, packing="tree", max_tokens=12)
    assert [{s.group for s in m.samples} for m in together] == [{0}, {1}]
    split = pack(samples, packing="tree", max_tokens=11)
    assert [len(m.samples) for m in split] == [1, 1, 1, 1]


def test_micro_batches_are_balanced() -> None:
    prompts = [(index,) * length for index, length in enumerate([50, 10, 30, 20, 40, 50])]
    samples = make_samples(prompts, [[(99, 98)]] * 6)
    sizes = [m.num_nodes for m in pack(samples, packing="tree", max_tokens=110)]
    assert len(sizes) == 2 and max(sizes) - min(sizes) <= 12


def test_a_rank_without_work_gets_an_empty_micro_batch() -> None:
    samples = make_samples([(1, 2)], [[(3, 4)]])
    (idle,) = pack(samples, packing="tree", max_tokens=10, num_ranks=2, rank=1)
    assert idle.samples == () and len(idle.targets) == len(idle.places) == 0
    assert idle.num_nodes == 1, "it still runs a forward pass"
    assert idle.subtree_end is not None


def test_completions_beyond_the_budget_leave_no_micro_batch_empty() -> None:
    samples = make_samples([(1,) * 30, (2,) * 30], [[(3, 4)]] * 2)
    assert [len(m.samples) for m in pack(samples, packing="tree", max_tokens=5)] == [1, 1]


def test_no_samples_make_no_micro_batches() -> None:
    assert pack([], packing="tree", max_tokens=10, num_ranks=2) == []


@given(st.lists(SEQUENCES, min_size=1, max_size=3), st.integers(1, 7))
def test_blocks_cover_exactly_what_is_visible(
    forest: list[list[tuple[int, ...]]], block_size: int
) -> None:
    samples = make_samples([(g + 3,) for g in range(len(forest))], forest)
    (micro,) = pack(samples, packing="tree", max_tokens=1000)
    assert micro.subtree_end is not None
    layout = tree_layout(micro.subtree_end, micro.position_ids, block_size)
    seen = torch.full((micro.num_nodes, micro.num_nodes), -torch.inf)
    for block in layout.blocks:
        rows = torch.arange(block.queries.start, block.queries.stop)
        keys = torch.arange(micro.num_nodes)[block.keys]
        seen[rows[:, None], keys[None]] = block.bias
    assert torch.equal(seen, additive_mask(dense_visible(micro), torch.float32))
    assert torch.equal(seen, dense_mask(micro.subtree_end, torch.float32)[0, 0])
    assert layout.depth == int(micro.position_ids.max()) + 1


def test_flex_attention_mask_is_the_same_rule() -> None:
    samples = make_samples([(1, 2, 3), (4,)], [[(5, 6, 7), (5, 8)], [(9, 1), (9, 2, 3)]])
    (micro,) = pack(samples, packing="tree", max_tokens=1000)
    assert micro.subtree_end is not None
    mask = flex_mask(micro.subtree_end).mask_mod
    zero = torch.tensor(0)
    nodes = torch.arange(micro.num_nodes)
    assert torch.equal(mask(zero, zero, nodes[:, None], nodes[None]), dense_visible(micro))
