"""Each closed-form adjoint equals torch.func.vjp of the same call, and keeps no more than it needs."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr.calls import adjoints
from funcattr.calls.adjoints import ADJOINTS, ordinary_adjoint
from funcattr.calls.operations import canonical, spelled
from funcattr.calls.recorded_call import RecordedCall

from ..contract import assert_equal

# Forces the recorder, which uses the closed forms; with no rules at all vjp is torch.func.vjp.
# numpy's name of the keyword, which torch takes too but does not declare
AXIS: Any = {"axis": 2}
RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.STOP})


def _check(fn: Callable[..., Tensor], *primals: Tensor) -> None:
    out, pull = funcattr.vjp(fn, *primals, rules=RECORDED)
    plain: Any = torch.func.vjp(fn, *primals)
    expected_out, expected_pull = plain
    assert_equal(out, expected_out)
    cotangent = torch.randn_like(out)
    for actual, expected in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        assert_equal(actual, expected)
    batch = torch.randn(3, *out.shape, dtype=out.dtype)
    for actual, expected in zip(torch.vmap(pull)(batch), torch.vmap(expected_pull)(batch), strict=True):
        assert_equal(actual, expected)


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@given(
    rank=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    as_tuple=st.booleans(),
)
def test_convolution(
    rank: int, stride: int, padding: int, dilation: int, groups: int, bias: bool, as_tuple: bool
) -> None:
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    weight, b = _double(4, 4 // groups, *[2] * rank), _double(4) if bias else None

    def spread(v: int) -> Any:
        return (v,) * rank if as_tuple else v

    def fn(x: Tensor) -> Tensor:
        return conv(x, weight, b, spread(stride), spread(padding), dilation=spread(dilation), groups=groups)

    _check(fn, _double(2, 4, *[5] * rank))


@given(
    rank=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_transposed_convolution(
    rank: int, stride: int, padding: int, output_padding: int, dilation: int, groups: int, bias: bool
) -> None:
    assume(output_padding < max(stride, dilation))
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    weight, b = _double(4, 3, *[2] * rank), _double(3 * groups) if bias else None
    _check(lambda x: conv(x, weight, b, stride, padding, output_padding, groups, dilation), _double(2, 4, *[4] * rank))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.addmm(torch.ones(2, dtype=x.dtype), x[0, 0], torch.arange(12.0, dtype=x.dtype).reshape(6, 2)),
        lambda x: torch.addmm(torch.ones(3, 6, dtype=x.dtype), torch.ones(3, 6, dtype=x.dtype), x[0, 0]),
        lambda x: torch.addmm(torch.ones(6, dtype=x.dtype), x[0, 0], x[0, 1]),
        lambda x: torch.addmm(x[0, 0], torch.ones(6, 2, dtype=x.dtype), torch.ones(2, 6, dtype=x.dtype)),
        lambda x: torch.addmm(
            torch.ones(2, dtype=x.dtype), x[0, 0], torch.ones(6, 2, dtype=x.dtype), beta=0.5, alpha=-2
        ),
        lambda x: x @ torch.arange(12.0, dtype=x.dtype).reshape(6, 2),
        lambda x: torch.ones(2, 6, dtype=x.dtype) @ x,
        lambda x: torch.einsum("nchw,wd->nchd", x, torch.arange(12.0, dtype=x.dtype).reshape(6, 2)),
        lambda x: torch.tensordot(x, torch.arange(12.0, dtype=x.dtype).reshape(6, 2), dims=1),
        lambda x: torch.inner(x, torch.arange(12.0, dtype=x.dtype).reshape(2, 6)),
        lambda x: torch.vdot(x.flatten(), torch.arange(1.0 * x.numel(), dtype=x.dtype)),
        lambda x: torch.linalg.vecdot(x, torch.arange(1.0 * x.shape[-1], dtype=x.dtype)),
        lambda x: torch.linalg.cross(x[..., :3], torch.arange(3.0, dtype=x.dtype).expand_as(x[..., :3])),
        lambda x: torch.cross(x[..., :3], torch.arange(3.0, dtype=x.dtype).expand_as(x[..., :3]), dim=-1),
        lambda x: torch.arange(2.0 * x.shape[-2], dtype=x.dtype).reshape(2, -1) @ x,
        lambda x: F.conv_transpose2d(x[0], torch.ones(3, 2, 3, 3, dtype=x.dtype)),
        lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3, dtype=x.dtype), padding="same"),
        lambda x: F.conv2d(x[0], torch.ones(2, 3, 3, 3, dtype=x.dtype)),
        lambda x: F.conv2d(torch.ones(1, 3, 6, 6, dtype=x.dtype), x[:, :, :2, :2]),
        lambda x: F.linear(x, torch.arange(12.0, dtype=x.dtype).reshape(2, 6)),
        lambda x: F.linear(x, x[0, 0, :2, :], bias=x[0, 0, 0, :2]),
        lambda x: F.linear(x, torch.arange(6.0, dtype=x.dtype)),
        lambda x: F.batch_norm(x, torch.zeros(3, dtype=x.dtype), torch.full((3,), 2.0, dtype=x.dtype)),
        lambda x: F.batch_norm(
            x, torch.ones(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype), x[0, 0, 0, :3].detach(), eps=0.1
        ),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.batch_norm(x, torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype), training=True),
        lambda x: x.relu() + torch.relu(x) + F.relu(x) + F.relu6(4 * x) + x.clamp(min=0) + F.hardtanh(x, 0.0, 0.5),
        lambda x: x + x,
        lambda x: x + 2.0,
        lambda x: 1 + x + x[:, :1] + x[0] + x.sum(),
        lambda x: torch.add(x, x, alpha=3),
        lambda x: torch.cat([x, 2 * x, x[:, :1]], 1),
        lambda x: torch.cat((x, torch.ones_like(x)), dim=-1),
        lambda x: torch.cat([x[0], x[1]]),
        lambda x: torch.concat([x, x], **AXIS),
        lambda x: x * 3 + 2.5 * x + x * torch.arange(6.0, dtype=x.dtype) + torch.mul(x, other=2),
        lambda x: x[:1, :, :1] * torch.arange(72.0, dtype=x.dtype).reshape(2, 6, 6)[:, :1].expand(2, 3, 6)[0],
        lambda x: x[0, 0, 0, 0] * torch.arange(72.0, dtype=x.dtype).reshape(2, 6, 6) * torch.tensor(2.0),
        lambda x: x * x,
        lambda x: x.softmax(-1) + F.softmax(x, 1) + torch.softmax(x, dim=0) + F.softmax(input=x, dim=2),
        lambda x: torch.softmax(x, 1, torch.float64) + x.softmax(1, dtype=torch.float64),
        lambda x: x.chunk(3, 1)[1] * x.unbind(1)[2].unsqueeze(1),
        lambda x: x.reshape(6, 36).view(2, 3, 36).flatten(1).unflatten(1, (3, 36)) * x.unsqueeze(0).squeeze(0).sum(),
        lambda x: x.flatten().flatten() * x.flatten().sum(),
        lambda x: x * x.view(dtype=torch.int64) + x * x.long() * (4 * x).to(torch.int32).double(),
        lambda x: x.transpose(1, -1) + x.swapaxes(3, 1) + torch.transpose(x, dim0=1, dim1=3) + x.swapdims(1, 3),
        lambda x: torch.transpose(input=x, dim0=1, dim1=3),
        lambda x: x.permute(3, 0, -2, 1) + torch.permute(x, (3, 0, 2, 1)) + x.permute(dims=[3, 0, 2, 1]),
        lambda x: torch.permute(input=x, dims=(1, 0, 3, 2)),
        lambda x: x.mT @ x,
        lambda x: F.max_pool2d(x, 2) * F.max_pool2d(x, (3, 2), 2, (1, 0)) * torch.max_pool2d(x, 2, stride=[]),
        lambda x: F.max_pool2d(x, 3, padding=1, dilation=2, ceil_mode=True) + F.max_pool2d(x[0], 3, 4, 1, 2, True),
        lambda x: F.max_pool2d(x.contiguous(memory_format=torch.channels_last), kernel_size=2, stride=1),
        lambda x: F.max_pool2d(x, 2, 2, 0, 1, False, return_indices=True)[0] * nn.MaxPool2d(2)(x),
    ],
)
def test_other_operations(fn: Callable[[Tensor], Tensor]) -> None:
    _check(fn, _double(2, 3, 6, 6))


def test_add_keeps_each_operands_dtype() -> None:
    x, y = torch.randn(2, 3), _double(2, 3)
    _, pull = funcattr.vjp(lambda a, b: a + b, x, y, rules=RECORDED)
    assert [g.dtype for g in pull(_double(2, 3))] == [torch.float32, torch.float64]


@pytest.mark.parametrize("softmax", [lambda x: torch.softmax(x, 1, torch.float64), lambda x: x.softmax(1).double()])
def test_softmax_keeps_its_operands_dtype(softmax: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3)
    _, pull = funcattr.vjp(softmax, x, rules=RECORDED)
    (g,) = pull(_double(2, 3))
    assert g.dtype == torch.float32


def test_structures_and_integer_results_pass_through() -> None:
    x = _double(3, 4)
    values, pull = funcattr.vjp(lambda x: torch.max(x, dim=1), x, rules=RECORDED)
    assert torch.equal(values.indices, x.max(dim=1).indices)
    (g,) = pull(type(values)((torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long))))
    assert_equal(g, F.one_hot(x.argmax(1), 4).double())


def _kept_alive(op: str, fn: Callable[[Tensor], Tensor], weak: str) -> bool:
    """Whether the pullback alone keeps the call's input or output."""
    x = torch.randn(2, 3, 6, 6)
    call = _call_of(fn, x)
    out, parts, pull = ordinary_adjoint(call)
    watched = weakref.ref(x if weak == "input" else out)
    del call, out, parts, x
    gc.collect()
    alive = watched() is not None
    del pull
    return alive


def _call_of(fn: Callable[[Tensor], Tensor], x: Tensor) -> RecordedCall:
    caught: list[RecordedCall] = []

    class Catch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            caught.append(RecordedCall(func, canonical(spelled(func)), args, dict(kwargs or {}), ((0,),), ""))
            return func(*args, **(kwargs or {}))

    with Catch():
        fn(x)
    return caught[-1]


@pytest.mark.parametrize(
    ("op", "weak"),
    [
        (op, weak)
        for op in ("conv2d", "batch_norm", "linear", "add", "mul", "max_pool2d")
        for weak in ("input", "output")
    ]
    + [(op, "input") for op in ("relu", "softmax", "reshape", "transpose", "permute")],
)
def test_keeps_only_what_the_formula_needs(op: str, weak: str) -> None:
    weight, mean = torch.ones(2, 3, 3, 3), torch.ones(3)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "conv2d": lambda x: F.conv2d(x, weight),
        "batch_norm": lambda x: F.batch_norm(x, mean, mean),
        "relu": lambda x: F.relu(x),
        "linear": lambda x: F.linear(x, torch.ones(2, 6)),
        "add": lambda x: torch.add(x, 1.0),
        "mul": lambda x: torch.mul(x, 2.0),
        "softmax": lambda x: torch.softmax(x, 1),
        "reshape": lambda x: torch.reshape(x, (6, 36)),
        "transpose": lambda x: torch.transpose(x, 0, 1),
        "permute": lambda x: torch.permute(x, (1, 0, 2, 3)),
        "max_pool2d": lambda x: F.max_pool2d(x, 2),
    }
    assert not _kept_alive(op, calls[op], weak)


def test_the_memory_check_can_fail() -> None:
    assert _kept_alive("gelu", lambda x: F.gelu(x), "input")


def test_every_closed_form_is_checked_here() -> None:
    convolutions = {f"{name}{rank}d" for name in ("conv", "conv_transpose") for rank in (1, 2, 3)}
    products = {"linear", "addmm", "grouped_mm", "matmul", "rmatmul", "einsum", "tensordot", "inner"}
    products |= {"vdot", "linalg_vecdot", "cross", "linalg_cross"}
    views = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "swapaxes", "swapdims"}
    others = {"batch_norm", "relu", "add", "cat", "mul", "softmax", "permute", "mT", "max_pool2d"}
    assert set(ADJOINTS) == {*convolutions, *products, *views, *others}
    assert adjoints.__doc__ is not None


def test_autocast_is_followed() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    x = torch.randn(2, 2, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        recorded = funcattr.attribute(model, x, 1, rules=RECORDED).cotangent
        plain = funcattr.gradient(model, x, 1)
    assert_equal(recorded, plain, tolerance=1e-6)
    assert (plain - funcattr.gradient(model, x, 1)).abs().max() > 0
