"""Tiled log-probabilities against the plain formula, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvr import logprobs as module
from rlvr.logprobs import token_logprobs

PLACES, WIDTH, VOCABULARY, TOKENS = 13, 8, 50, 20


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VOCABULARY_TILE", 16)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(PLACES, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    places = torch.cat(
        [torch.arange(PLACES), torch.randint(PLACES, (TOKENS - PLACES,), generator=generator)]
    )
    return hidden.requires_grad_(), weight.requires_grad_(), targets, places


def plain(
    hidden: Tensor, weight: Tensor, targets: Tensor, places: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    log_p = (hidden @ weight.T / temperature).log_softmax(-1)
    return log_p[places, targets], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_values_and_gradients_are_those_of_the_plain_formula(
    temperature: float, chunk: int
) -> None:
    hidden, weight, targets, places = problem()
    found = token_logprobs(hidden, weight, targets, places, temperature=temperature, chunk=chunk)
    expected = plain(hidden, weight, targets, places, temperature)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    upstream = [torch.randn(TOKENS), torch.randn(PLACES)]
    found_grads = torch.autograd.grad(found, [hidden, weight], upstream)
    expected_grads = torch.autograd.grad(expected, [hidden, weight], upstream)
    for one, other in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_through_one_output_only() -> None:
    for which in (0, 1):
        hidden, weight, targets, places = problem()
        found = token_logprobs(hidden, weight, targets, places)[which]
        expected = plain(hidden, weight, targets, places, 1.0)[which]
        (grad,) = torch.autograd.grad(found.sum(), [hidden])
        (expected_grad,) = torch.autograd.grad(expected.sum(), [hidden])
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight, targets, places = problem()
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, targets, places).logprobs.sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_certain_tokens_have_logprob_zero_and_no_entropy() -> None:
    """Confident models make most tokens like this; a positive logprob would bias every ratio."""
    hidden = torch.tensor([[100.0, 0.0]]).bfloat16()
    weight = torch.tensor([[1.0, 0.0]] + [[0.0, 1.0]] * 40).bfloat16()
    found = token_logprobs(hidden, weight, torch.tensor([0]), torch.tensor([0]))
    assert found.logprobs.tolist() == [0.0]
    assert found.entropy.tolist() == [pytest.approx(0.0, abs=1e-6)]


def test_very_large_logits_do_not_overflow() -> None:
    hidden, weight, targets, places = problem()
    with torch.no_grad():
        found = token_logprobs(hidden * 1000, weight, targets, places)
        expected = plain(hidden * 1000, weight, targets, places, 1.0)
    torch.testing.assert_close(found.logprobs, expected[0], rtol=1e-5, atol=1e-3)
    assert torch.isfinite(found.entropy).all()


def test_no_places_at_all() -> None:
    hidden, weight, targets, places = problem()
    found = token_logprobs(hidden[:0], weight, targets[:0], places[:0])
    (found.logprobs.sum() + found.entropy.sum()).backward()
    assert weight.grad is not None and not weight.grad.any()


def test_not_a_number_is_passed_on() -> None:
    hidden, weight, targets, places = problem()
    with torch.no_grad():
        hidden[0, 0] = torch.nan
        assert token_logprobs(hidden, weight, targets, places).logprobs[places == 0].isnan().all()
