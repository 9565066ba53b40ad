"""Functions whose attributions can be written down: linear, additive, and a sum of products."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...sampling.draws import Generator, normal, permutations, seed_from
from ...sampling.loops import positive

OUTPUTS = 3
FEATURES = 6


class Exact(NamedTuple):
    """A model, inputs, and the exact contribution of each feature."""

    model: nn.Module
    """[N, F] -> [N, K], in double precision, on the CPU."""
    x: Tensor
    """[N, F]"""
    target: Tensor
    """Which output is explained. [N]"""
    attributions: Tensor
    """The Shapley values against a baseline of zeros; they sum to the output less that of zeros. [N, F]"""
    gradient: Tensor
    """The derivative of the target's output. [N, F]"""


def linear(*, samples: int = 10, generator: Generator = 0) -> Exact:
    """A linear model, which leaves methods no choice.

    y_k = sum_i w_ki x_i + b_k;  A_i = w_ti x_i

    Args:
        samples: Number of examples N.
        generator: Seed, or generator, of the examples and the weights.

    Returns:
        Six features and three outputs in an `nn.Linear`.

    Raises:
        ValueError: If `samples` < 1.

    Example:
        >>> import torch, funcattr
        >>> model, x, target, attributions, _ = linear()
        >>> assert torch.allclose(funcattr.input_x_gradient(model, x, target), attributions)
    """
    x, target, weight, bias = _drawn("linear", samples, generator, FEATURES)
    with torch.random.fork_rng(devices=[]):  # the layer begins with random weights
        model = nn.Linear(FEATURES, OUTPUTS)
    model.weight, model.bias = nn.Parameter(weight), nn.Parameter(bias)
    return Exact(model.eval(), x, target, weight[target] * x, weight[target])


class Additive(nn.Module):
    """A weighted sum of functions of one feature each: sine, square, exponential, tanh, cube, logistic function.

    Args:
        weight, bias: [K, 6], [K]
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 6] -> [N, K]"""
        a, b, c, d, e, f = x.unbind(1)
        return torch.stack([a.sin(), b * b, c.exp(), d.tanh(), e * e * e, f.sigmoid()], 1) @ self.weight.T + self.bias


def additive(*, samples: int = 10, generator: Generator = 0) -> Exact:
    """A sum of functions of one feature each: features do not interact, but the gradient is not the answer.

    y_k = sum_i w_ki g_i(x_i) + b_k;  A_i = w_ti (g_i(x_i) - g_i(0))

    Integrated gradients, DeepLIFT, ablation and Shapley values are this; input x gradient is not.

    Args:
        samples, generator: As in `linear`.

    Returns:
        Six features and three outputs, in an `Additive`.

    Raises:
        ValueError: If `samples` < 1.

    Example:
        >>> import torch, funcattr
        >>> model, x, target, attributions, _ = additive()
        >>> assert torch.allclose(funcattr.feature_ablation(model, x, target), attributions)
        >>> assert not torch.allclose(funcattr.input_x_gradient(model, x, target), attributions, rtol=0.1)
    """
    x, target, weight, bias = _drawn("additive", samples, generator, FEATURES)
    a, b, c, d, e, f = x.unbind(1)
    rises = torch.stack([a.sin(), b.square(), c.exp() - 1, d.tanh(), e**3, f.sigmoid() - 0.5], 1)
    slopes = torch.stack([a.cos(), 2 * b, c.exp(), 1 - d.tanh() ** 2, 3 * e**2, f.sigmoid() * (-f).sigmoid()], 1)
    return Exact(Additive(weight, bias).eval(), x, target, weight[target] * rises, weight[target] * slopes)


class Product(nn.Module):
    """A weighted sum of products of two features each.

    Args:
        weight, bias: [K, F / 2], [K]
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, K]"""
        return (x[:, 0::2] * x[:, 1::2]) @ self.weight.T + self.bias


def product(*, samples: int = 10, generator: Generator = 0) -> Exact:
    """A sum of products of two features, each of which is nothing without the other: they share alike.

    y_k = sum_j w_kj x_2j x_(2j+1) + b_k;  A_2j = A_(2j+1) = w_tj x_2j x_(2j+1) / 2

    Integrated gradients and Shapley values are this; input x gradient and ablation count each product twice.

    Args:
        samples, generator: As in `linear`.

    Returns:
        Six features and three outputs, in a `Product`.

    Raises:
        ValueError: If `samples` < 1.

    Example:
        >>> import torch, funcattr
        >>> model, x, target, attributions, _ = product()
        >>> assert torch.allclose(funcattr.integrated_gradients(model, x, target), attributions)
        >>> assert torch.allclose(funcattr.feature_ablation(model, x, target), 2 * attributions)
    """
    x, target, weight, bias = _drawn("product", samples, generator, FEATURES // 2)
    factors = weight[target].repeat_interleave(2, 1)  # [N, F]
    others = x.unflatten(1, (-1, 2)).flip(2).flatten(1)
    return Exact(Product(weight, bias).eval(), x, target, factors * x * others / 2, factors * others)


def _drawn(call: str, samples: int, generator: Generator, terms: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Examples and targets, [N, F] and [N], and the weights and biases of the terms, [K, terms] and [K]."""
    numbers, seed = torch.arange(positive(call, "samples", samples)), seed_from(call, generator)
    like, outputs = torch.empty((), dtype=torch.float64), torch.arange(OUTPUTS)
    x = normal(numbers, (FEATURES,), like, seed)
    target = permutations(numbers, OUTPUTS, seed=seed, stream=1)[:, 0]
    return x, target, normal(outputs, (terms,), like, seed, 2), normal(outputs, (), like, seed, 3)
