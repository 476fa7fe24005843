"""Expected and actual output."""

from __future__ import annotations

import pytest

from verifiers.code_compare import same_output


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        (b"1 2\n3\n", b"1 2 3", True),
        (b"", b"\n", True),
        (b"1 2", b"1 2 3", False),
        (b"12", b"1 2", False),
        (b"YES", b"yes", False),
        (b"1\xc2\xa02", b"1 2", False),
        (b"1\x002", b"1 2", False),
        (b"1.0", b"1", False),
    ],
)
def test_tokens(actual: bytes, expected: bytes, same: bool) -> None:
    assert same_output(actual, expected) is same


def test_lines_keep_the_space_within() -> None:
    assert same_output(b"a  b \n\n", b"a  b", compare="lines")
    assert not same_output(b"a b", b"a  b", compare="lines")
    assert not same_output(b"\na", b"a", compare="lines")


def test_exact_means_bytes() -> None:
    assert same_output(b"a\n", b"a\n", compare="exact")
    assert not same_output(b"a", b"a\n", compare="exact")


@pytest.mark.parametrize(
    ("actual", "same"),
    [
        (b"0.333333333", True),
        (b"3.33333e-1", True),
        (b"+.33333333", True),
        (b"0.34", False),
        (b"nan", False),
        (b"inf", False),
        (b"0_3.3e-1", False),
        (b"0." + b"3" * 1000, False),
        (b"1/3", False),
        (b"", False),
    ],
)
def test_tolerance_is_for_numbers_as_they_are_printed(actual: bytes, same: bool) -> None:
    assert same_output(actual, b"0.3333333", tolerance=1e-4) is same


def test_tolerance_does_not_make_infinities_equal() -> None:
    assert not same_output(b"1e999", b"2e999", tolerance=1e-4)
