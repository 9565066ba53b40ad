"""Linear operations of every kind and spelling, with inputs, and what a relevance rule should give for them.

Numbers are small multiples of 1/8: their sums are exact, so that a zero is zero and nothing else lies near a pole.
A falsifying example prints as `LinearMap(Description(...))`, an expression that builds the same operation again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import closed_forms

Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Function = Callable[[Tensor], Tensor]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
OPERATIONS = ("linear", *CONVOLUTIONS, *TRANSPOSED, "addmm", "matmul", "einsum")

_MODULES: dict[str, Any] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}
ADDMM: dict[str, Any] = {
    "torch.addmm(b, x, w)": lambda x, w, b, **scales: torch.addmm(b, x, w, **scales),
    "torch.addmm(b, w, x)": lambda x, w, b, **scales: torch.addmm(b, w, x, **scales),
    "b.addmm(x, mat2=w)": lambda x, w, b, **scales: b.addmm(x, mat2=w, **scales),
}
PRODUCTS: dict[str, Layer] = {
    "x @ w": lambda x, w, b: x @ w,
    "w @ x": lambda x, w, b: w @ x,
    "torch.matmul(w, other=x)": lambda x, w, b: torch.matmul(w, other=x),
    "x.mm(w)": lambda x, w, b: x.mm(w),
    "torch.mv(w, x)": lambda x, w, b: torch.mv(w, x),
    "torch.bmm(x, w)": lambda x, w, b: torch.bmm(x, w),
    "x.dot(w)": lambda x, w, b: x.dot(w),
    "torch.tensordot(x, w, 1)": lambda x, w, b: torch.tensordot(x, w, 1),
    "torch.inner(w, x)": lambda x, w, b: torch.inner(w, x),
    "F.linear(x, vector)": lambda x, w, b: F.linear(x, w),
    "F.linear(w, x)": lambda x, w, b: F.linear(w, x),
}
EINSUMS: dict[str, Layer] = {
    "ntf,fo->nto": lambda x, w, b: torch.einsum("ntf,fo->nto", x, w),
    "of,nft->not": lambda x, w, b: torch.einsum("of,nft->not", w, x),
    "ni,nij->nj": lambda x, w, b: torch.einsum("ni,nij->nj", x, w),
    "...f,of->...o": lambda x, w, b: torch.einsum("...f,of->...o", x, w),
}


class Description(NamedTuple):
    """All that a linear map and its input depend on."""

    op: str
    spelling: str  # of ADDMM, PRODUCTS, EINSUMS; else "function" or "module"
    shape: tuple[int, ...]  # of x
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None
    options: dict[str, Any]
    rectified: bool  # the operation comes after a relu
    dead: bool  # every weight of some output is zero
    seed: int


def grid(*shape: int, seed: int) -> Tensor:
    """Multiples of 1/8 in [-2, 2], a quarter of them zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-16, 17, shape, generator=generator) / 8
    return (values * (torch.rand(shape, generator=generator) > 0.25)).double()


def assert_relevance(actual: Tensor, expected: Tensor, scale: Tensor, *, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` of `scale`, the sum of what was added up in absolute value, at each element."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    allowed = tolerance * scale + 1e-15 * scale.max()
    off = (actual.double() - expected).abs() - allowed
    assert (off <= 0).all(), f"{actual} != {expected}"


class LinearMap:
    """A linear operation with an input, the relevance of its output, and what rules should make of that.

    Attributes:
        layer: The operation itself, as a function of x, weight and bias.
        before: What a module does with x before that: padding.
        model: Both in their spelling, after a relu if `rectified`: what is explained.
    """

    def __init__(self, description: Description) -> None:
        self.description = d = description
        self.x, self.weight = grid(*d.shape, seed=d.seed), grid(*d.weight, seed=d.seed + 1)
        self.bias = None if d.bias is None else grid(*d.bias, seed=d.seed + 2)
        if d.dead:
            self.weight.select(_output_dim(d), 0).zero_()
        self.layer, self.before = _build(d)
        self.rebuild()
        self.relevance = grid(*self.model(self.x).shape, seed=d.seed + 3)

    def rebuild(self) -> None:
        """Follow a change of `weight` and `bias`."""
        self._module = _module(self) if self.description.spelling == "module" else None

    def model(self, x: Tensor) -> Tensor:
        x = torch.relu(x) if self.description.rectified else x
        return self._module(x) if self._module else self.layer(x, self.weight, self.bias)

    def __repr__(self) -> str:
        return f"LinearMap({self.description!r})"

    @property
    def arriving(self) -> Tensor:
        """The input of the operation itself."""
        return self.before(torch.relu(self.x) if self.description.rectified else self.x)

    @property
    def channel(self) -> int:
        """The dimension of the channels in x."""
        op = self.description.op
        return -1 - int(op[-2]) if op in _MODULES else -1

    def dense(self) -> closed_forms.Dense:
        """The operation itself as a matrix."""
        shape, ones = tuple(self.arriving.shape), torch.ones_like(self.weight)
        matrix, bias = closed_forms.dense(lambda x: self.layer(x, self.weight, self.bias), shape)
        of_ones, _ = closed_forms.dense(lambda x: self.layer(x, ones, self.bias), shape)
        # the weight of addmm is alpha W
        return closed_forms.Dense(matrix, of_ones / self.description.options.get("alpha", 1), bias)

    def expected(self, rule: str, **options: Any) -> tuple[Tensor, Tensor]:
        """The relevance of x in closed form, where relu passes it on, and its scale of rounding; both shaped as x."""
        x = self.arriving
        for bound in {"low", "high"} & set(options):
            options[bound] = closed_forms.per_input(options[bound], tuple(x.shape), self.channel)
        relevance = self.relevance.flatten().numpy()
        messages = closed_forms.RULES[rule](self.dense(), x.flatten().numpy(), relevance, **options)
        adjoint = torch.func.vjp(self.before, self.x)[1]
        sums = messages.sum((0, 1)), abs(messages).sum((0, 1))
        found, scale = (adjoint(torch.from_numpy(s).view(x.shape))[0] for s in sums)
        return found, scale


def _output_dim(d: Description) -> int:
    """The dimension of the weight that counts outputs."""
    if d.op in _MODULES or d.op == "linear":
        return 1 if d.op in TRANSPOSED else 0
    return 0 if d.spelling.endswith(("w @ x", "(w, x)", "b, w, x)", "w, other=x)", "of,nft->not", "of->...o")) else -1


def _build(d: Description) -> tuple[Layer, Function]:
    """The operation, and the padding before it."""
    if d.op not in _MODULES:
        layer: Any = F.linear if d.op == "linear" else (PRODUCTS | EINSUMS | ADDMM)[d.spelling]
        return lambda x, w, b: layer(x, w, b, **d.options), lambda x: x
    function, options = getattr(F, d.op), dict(d.options)
    mode = options.pop("padding_mode", "zeros")
    if mode == "zeros":
        return lambda x, w, b: function(x, w, b, **options), lambda x: x
    padding = options.pop("padding")
    sides = [side for p in reversed(padding) for side in (p, p)]
    if padding == "same":
        spans = [dilation * (kernel - 1) for dilation, kernel in zip(options["dilation"], d.weight[2:])]
        sides = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    return lambda x, w, b: function(x, w, b, **options), lambda x: F.pad(x, sides, mode=mode)


def _module(m: LinearMap) -> nn.Module:
    """The operation as a module."""
    d = m.description
    more: dict[str, Any] = {"bias": m.bias is not None, "dtype": m.weight.dtype, **d.options}
    first, second = d.weight[:2]
    if d.op == "linear":
        module = nn.Linear(second, first, **more)
    elif d.op in TRANSPOSED:
        module = _MODULES[d.op](first, second * d.options["groups"], d.weight[2:], **more)
    else:
        module = _MODULES[d.op](second * d.options["groups"], first, d.weight[2:], **more)
    state = {"weight": m.weight} | ({} if m.bias is None else {"bias": m.bias})
    module.load_state_dict(state)
    return module.eval()
