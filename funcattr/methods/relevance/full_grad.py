"""FullGrad: the input times its gradient, and the biases times theirs, as one map."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import func_vjp
from ...agreement import same_numbers
from ...attribution.contribution import contribution
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions, forward
from ...attribution.question import Model, Question, ask
from ...attribution.targets import Target, cotangent_of
from ...calls.kinds import GROUPS
from ...errors import LOOK, FuncattrError, UnsupportedOperationError
from ...maps import resize
from ...rules.twice import TWICE
from ...tape.step import Step
from ...torch_state import derivative_is_final, is_plain_eager
from ..features import spatial_size


def full_grad(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    absolute: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """The input times the gradient, and every bias times the gradient at it: a map that sums to the output.

    A = sum_c x_c g_c + sum_l up(sum_c b_lc g_lc),    g = d y_t / d x,  g_l = d y_t / d h_l

    A call h_l = F(v) has the bias b_l = h_l - (dF/dv) v: that of a convolution or a linear layer, the shift of a batch
    norm, and what a nonlinearity has of its own (0 for relu). `up` is linear interpolation to the input's size, each
    position's share spread so that its sum stays. What has no positions, such as a classifier's bias, is spread evenly.

    Args:
        model, target, output, args, kwargs, example_dims: As in `gradient`.
        x: Input, [N, C, *spatial] once its examples are in front.
        absolute: Whether each x_c g_c and b_lc g_lc is taken without its sign, as in the paper's pictures. The sum over
            the map is then no output.

    Returns:
        Map, [N, 1, *spatial], in units of y. It sums to y_t exactly, whatever the model's nonlinearities. Values inside
        the model that have as many dimensions as x are taken to have its positions: in convolutions they have; for what
        attention does to tokens only the sum is right.

    Raises:
        ValueError: As in `gradient`; and if a value inside of the model does not have its examples in dimension 0.
        TypeError, UntrackedPathError: As in `gradient`.
        UnsupportedOperationError: If torch does not know the second derivative of an operation.
        NotImplementedError: In compiled code.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, SiLU, Sequential
        >>> model, x = Sequential(Conv2d(1, 2, 3), SiLU(), Flatten(), Linear(8, 3)), torch.randn(5, 1, 4, 4)
        >>> torch.allclose(funcattr.full_grad(model, x, 2).sum((1, 2, 3)), model(x)[:, 2], atol=1e-5)
        True

    References:
        Srinivas & Fleuret, 2019, arXiv:1905.00780.
    """
    question = ask("full_grad", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    if torch.compiler.is_dynamo_compiling():
        raise NotImplementedError("full_grad: it looks at each recorded call, which compiled code has not.")
    size, through = spatial_size(question.call, question.x), question.target if callable(question.target) else None
    passed = forward(question, PassOptions(TWICE), keep=True, through=through)
    start = cotangent_of(question.call, passed.output, None if through else question.target)
    shares: list[Tensor] = []
    with torch.set_grad_enabled(torch.is_grad_enabled() and not derivative_is_final(passed.output, start)):
        (g,) = passed.pull(start, observer=lambda *step: shares.extend(_biases(*step)))
        own = contribution(question.x, g)
        found = sum((_as_map(question, b, size, absolute) for b in shares), _channels(own, absolute))
        signed = found
        if absolute:
            signed = sum((_as_map(question, b, size, False) for b in shares), _channels(own, False))
    explained = passed.output * start
    dtypes = (signed.dtype, explained.dtype, *(share.dtype for share in shares))
    _require_whole(question, signed, explained, max(dtypes, key=lambda dtype: torch.finfo(dtype).eps))
    return question.as_given(found)


def _biases(step: Step, arrived: list[Any], results: tuple[Any, ...]) -> list[Tensor]:
    """The biases of a call, times the gradient there. Shaped as its results"""
    if not step.values.outputs or step.op in GROUPS["selection"]:
        return []  # a site, or values that are only moved, from where examples may not be in front yet

    def pulled(*g: Tensor) -> tuple[Tensor, ...]:
        return tuple(r for r in step.pull(g[0] if len(g) == 1 else g) if r is not None)

    # The pullback is linear in the cotangent, so that its own adjoint, anywhere, is the derivative of the call. Ones:
    # some of torch's pullbacks take logarithms of cotangents.
    reached = tuple(v for v, r in zip(step.values.operands, results, strict=True) if r is not None)
    try:
        linear = func_vjp(pulled, *(torch.ones_like(y) for y in step.values.outputs))[1](reached)
    except FuncattrError:
        raise
    except RuntimeError as error:  # a NotImplementedError is one
        raise UnsupportedOperationError(
            f"full_grad: torch does not differentiate the derivative of {step.op} in {step.path!r} ({error}). "
            "Write it in other operations."
        ) from error
    shares = [
        # Results that lead nowhere, such as the last state of a recurrent layer, may have their examples elsewhere.
        None if g is None else contribution(y - v, g)
        for y, v, g in zip(step.values.outputs, linear, arrived, strict=True)
    ]
    if step.op == "multi_head_attention_forward" and shares[0] is not None and shares[0].ndim == 3:
        shares[0] = shares[0].transpose(0, 1)  # [L, N, E] -> [N, L, E]: the function's, whatever its module is told
    return [share for share in shares if share is not None]


def _channels(values: Tensor, absolute: bool) -> Tensor:
    return (values.abs() if absolute else values).sum(1, keepdim=True)


def _as_map(question: Question, share: Tensor, size: tuple[int, ...], absolute: bool) -> Tensor:
    """A share of the output as a map of the input's size, with the same sum for each example. [N, 1, *spatial]"""
    has_rows = share.shape[:1] == (question.examples,)
    if not has_rows and question.examples > 1:
        raise _misplaced(question, f"a value of shape {list(share.shape)}")
    if not has_rows or share.ndim != 2 + len(size):
        share = share.reshape(question.examples, -1, *[1] * len(size))
    places = _channels(share, absolute).to(question.x.dtype)
    # "area" leaves no place out where there are more of them than in the input.
    mode = "bilinear" if all(n <= to for n, to in zip(places.shape[2:], size, strict=True)) else "area"
    weight = func_vjp(lambda m: resize(m, size, mode=mode), torch.ones_like(places))[1](
        places.new_ones(len(places), 1, *size)
    )[0]
    return resize(places / weight, size, mode=mode)


def _require_whole(question: Question, found: Tensor, explained: Tensor, coarsest: torch.dtype) -> None:
    """Raise unless each example's map sums to its output: inside, examples may lie elsewhere than in dimension 0.

    Sums are as exact as the coarsest dtype that any part of the model computes in.
    """
    if is_plain_eager():
        found, explained = (v.detach().reshape(question.examples, -1) for v in (found, explained))
        is_finite = explained.isfinite().all(1)
        found, explained = found[is_finite], explained[is_finite]
        size = float(found.abs().sum(1).nan_to_num().max()) if len(found) else 0.0
        if not same_numbers(explained.sum(1).to(coarsest), found.sum(1).to(coarsest), size=size):
            raise _misplaced(question, "one whose examples lie elsewhere")


def _misplaced(question: Question, what: str) -> ValueError:
    return ValueError(
        f"{question.call}: expected examples in dimension 0 of every value inside of the model, {question.examples} of "
        f"them, got {what}. Explain the examples one by one. {LOOK}"
    )
