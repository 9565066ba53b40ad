"""What a value contributes to the output by its cotangent: one real number for each value, complex ones too."""

from torch import Tensor


def contribution(value: Tensor, g: Tensor) -> Tensor:
    """Re(v conj(g)), which is v * g of real numbers. Shaped as both

    A complex value is a pair of real ones, and torch's gradient g of a real y by it holds both derivatives:
    dy = Re(conj(g) dz).
    """
    return (value * g.conj()).real if value.is_complex() or g.is_complex() else value * g


def of_both_parts(relevance: Tensor) -> Tensor:
    """The relevance of each number: of a complex one, whose parts have a relevance each, the sum of the two."""
    return relevance.real + relevance.imag if relevance.is_complex() else relevance
