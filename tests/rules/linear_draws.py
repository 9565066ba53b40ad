"""Hypothesis strategy: how each kind of linear operation is drawn, with arguments that are valid for its input."""

from itertools import product
from typing import Any

from hypothesis import strategies as st

from .linear_maps import ADDMM, CONVOLUTIONS, EINSUMS, OPERATIONS, PRODUCTS, TRANSPOSED, Description, LinearMap

Drawn = dict[str, Any]

_few = st.integers(1, 3)
_features = st.integers(1, 5)
_LARGEST = {1: 6, 2: 4, 3: 3}  # spatial sizes, so that an example takes milliseconds


@st.composite
def linear_maps(draw: st.DrawFn, op: str | None = None, *, rectified: bool | None = None) -> LinearMap:
    """Draw an operation with its input and the relevance of its output.

    Args:
        op: One of `OPERATIONS`; None draws it.
        rectified: Whether x passes a relu before; None draws it.
    """
    op = draw(st.sampled_from(OPERATIONS)) if op is None else op
    part = {"bias": None, "options": {}} | _DRAWS[op](draw, op)
    rectified = draw(st.booleans()) if rectified is None else rectified
    dead, seed = draw(st.booleans()), draw(st.integers(0, 999))
    return LinearMap(Description(op=op, **part, rectified=rectified, dead=dead, seed=seed))


def _linear(draw: st.DrawFn, op: str) -> Drawn:
    leading = draw(st.lists(_few, max_size=2))  # [F], [N, F], [N, T, F]
    before, after = draw(_features), draw(_few)
    return {
        "spelling": draw(st.sampled_from(["function", "module"])),
        "shape": (*leading, before),
        "weight": (after, before),
        "bias": draw(st.sampled_from([None, (after,)])),
    }


def _addmm(draw: st.DrawFn, op: str) -> Drawn:
    rows, inner, columns = draw(_few), draw(_features), draw(_few)
    spelling = draw(st.sampled_from(list(ADDMM)))
    left, right = (rows, inner), (inner, columns)
    return {
        "spelling": spelling,
        "shape": right if "w, x" in spelling else left,
        "weight": left if "w, x" in spelling else right,
        "bias": draw(st.sampled_from([(columns,), (rows, 1), (rows, columns)])),
        "options": draw(st.sampled_from([{}, {"alpha": 0.5, "beta": -2}, {"alpha": -1}])),
    }


def _matmul(draw: st.DrawFn, op: str) -> Drawn:
    n, t, f, o = draw(_few), draw(_few), draw(_features), draw(_few)
    first: Drawn = {"shape": draw(st.sampled_from([(f,), (t, f), (n, t, f)])), "weight": (f, o)}
    second: Drawn = {"shape": draw(st.sampled_from([(f,), (f, t), (n, f, t)])), "weight": (o, f)}
    shapes = {
        "x @ w": first,
        "w @ x": second,
        "torch.matmul(w, other=x)": second,
        "x.mm(w)": {"shape": (t, f), "weight": (f, o)},
        "torch.mv(w, x)": {"shape": (f,), "weight": (o, f)},
        "torch.bmm(x, w)": {"shape": (n, t, f), "weight": (n, f, o)},
        "x.dot(w)": {"shape": (f,), "weight": (f,)},
        "torch.tensordot(x, w, 1)": {"shape": (n, t, f), "weight": (f, o)},
        "torch.inner(w, x)": {"shape": (t, f), "weight": (o, f)},
        "F.linear(x, vector)": {"shape": (t, f), "weight": (f,)},
        "F.linear(w, x)": {"shape": (t, f), "weight": (o, f)},
    }
    spelling = draw(st.sampled_from(list(PRODUCTS)))
    return {"spelling": spelling, **shapes[spelling]}


def _einsum(draw: st.DrawFn, op: str) -> Drawn:
    n, t, f, o = draw(_few), draw(_few), draw(_features), draw(_few)
    shapes = {
        "ntf,fo->nto": {"shape": (n, t, f), "weight": (f, o)},
        "of,nft->not": {"shape": (n, f, t), "weight": (o, f)},
        "ni,nij->nj": {"shape": (n, f), "weight": (n, f, o)},
        "...f,of->...o": {"shape": (n, t, f), "weight": (o, f)},
    }
    spelling = draw(st.sampled_from(list(EINSUMS)))
    return {"spelling": spelling, **shapes[spelling]}


def _windows(size: int, widest: int) -> list[tuple[int, int, int]]:
    """The (kernel, dilation, padding) that fit a dimension."""
    choices = product((1, 2, 3), (1, 2), range(widest + 1))
    return [(k, d, p) for k, d, p in choices if d * (k - 1) < size + 2 * p]


def _convolution(draw: st.DrawFn, op: str) -> Drawn:
    rank = int(op[-2])
    groups, channels, after = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes = tuple(draw(st.integers(2, _LARGEST[rank])) for _ in range(rank))
    spelling = draw(st.sampled_from(["function", "module"]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])) if spelling == "module" else "zeros"
    # "reflect" needs more values than it adds
    windows = [draw(st.sampled_from(_windows(n, 2 if mode == "zeros" else min(2, n - 1)))) for n in sizes]
    kernel, dilation, padding = zip(*windows)
    options: Drawn = {"dilation": dilation, "groups": groups, "padding": padding}
    spans = [d * (k - 1) for k, d in zip(kernel, dilation)]
    if all(span < size for span, size in zip(spans, sizes)) and draw(st.booleans()):
        # torch warns of a copy for "same" with an odd span
        options["padding"] = "same" if all(span % 2 == 0 for span in spans) else "valid"
    if options["padding"] == "valid":
        mode = "zeros"
    if options["padding"] != "same":
        options["stride"] = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    return {
        "spelling": spelling,
        "shape": (*_batch(draw), groups * channels, *sizes),
        "weight": (groups * after, channels, *kernel),
        "bias": draw(st.sampled_from([None, (groups * after,)])),
        "options": options | ({} if mode == "zeros" else {"padding_mode": mode}),
    }


def _transposed(draw: st.DrawFn, op: str) -> Drawn:
    rank = int(op[-2])
    groups, channels, after = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, dilation, padding, extra = zip(*(draw(_transposed_windows) for _ in range(rank)))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "output_padding": extra, "groups": groups}
    sizes = (draw(st.integers(2, max(2, _LARGEST[rank] - 2))) for _ in range(rank))
    return {
        "spelling": draw(st.sampled_from(["function", "module"])),
        "shape": (*_batch(draw), groups * channels, *sizes),
        "weight": (groups * channels, after, *kernel),
        "bias": draw(st.sampled_from([None, (groups * after,)])),
        "options": options,
    }


# (kernel, stride, dilation, padding, output_padding) of a dimension, that give some output for two positions
_transposed_windows = st.sampled_from(
    [
        (k, s, d, p, extra)
        for k, s, d, p in product((1, 2, 3), (1, 2), (1, 2), (0, 1))
        for extra in range(max(s, d))
        if s - 2 * p + d * (k - 1) + extra >= 0
    ]
)


def _batch(draw: st.DrawFn) -> tuple[int, ...]:
    return draw(st.sampled_from([(1,), (2,), ()]))


_DRAWS = {
    "linear": _linear,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED, _transposed),
    "addmm": _addmm,
    "matmul": _matmul,
    "einsum": _einsum,
}
