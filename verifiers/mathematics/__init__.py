"""The math verifier, registered as `math`. See docs/math_verifier.md."""

from verifiers.mathematics.verifier import MathVerifier

__all__ = ["MathVerifier"]
