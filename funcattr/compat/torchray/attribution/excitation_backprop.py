"""Excitation backpropagation and its contrastive form, as `torchray.attribution.excitation_backprop`.

TorchRay's numbers: a residual sum hands p to both of its operands, so that the mass doubles at each skip. To split it,
write `eltwise_sum(a, b)` in place of `a + b`, or take `funcattr.excitation_backprop`, which splits every sum.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from .... import FuncattrError, Rulebook, attribute, functionalize, rules
from .contexts import RuledContext
from .contexts import eltwise_sum as eltwise_sum
from .driver import saliency, score_of
from .probes import live_pass, with_gradient
from .seeds import get_backward_gradient, gradient_of, resize_saliency

_OPERATIONS = ("conv1d", "conv2d", "conv3d", "linear")
_WINNING = rules.winning_probability(eps=1e-20)
_SHARE = rules.norm(eps=1e-20)
_RULES = {
    **dict.fromkeys(_OPERATIONS, _WINNING),
    "average_pool": _SHARE,
    eltwise_sum: _SHARE,
    "batch_norm": rules.pass_through,
}
_BOOK = Rulebook(_RULES, name="TorchRay's excitation backprop")


class ExcitationBackpropContext(RuledContext):
    """Excitation backpropagation for one's own forward and backward pass.

    Args:
        enable: Without it the context changes nothing.
        debug: Print each call that has a rule.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 3.0]], requires_grad=True)
        >>> with ExcitationBackpropContext():
        ...     nn.functional.linear(x, torch.tensor([[1.0, 1.0], [1.0, -1.0]])).backward(torch.tensor([[1.0, 0.0]]))
        >>> x.grad
        tensor([[0.2500, 0.7500]])
    """

    rulebook = _BOOK

    def __init__(self, enable: bool = True, debug: bool = False) -> None:
        self.enable, self.debug = enable, debug

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """One torch function of the model."""
        return super().run(func, args, kwargs) if self.enable else func(*args, **kwargs)

    def ruled(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], operands: Any) -> Any:
        """The result of a call that has a rule."""
        if self.debug:
            print(f"ExcitationBackpropContext: {getattr(func, '__name__', func)} of {list(operands[0].shape)}")
        return super().ruled(func, args, kwargs, operands)


class EltwiseSum(nn.Module):
    """`eltwise_sum` as a module."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum of the inputs."""
        return eltwise_sum(*inputs)


def update_resnet(model: nn.Module, debug: bool = False) -> NoReturn:
    """Refused: it would change the user's model.

    Raises:
        FuncattrError: Always.
    """
    raise FuncattrError(
        "update_resnet: funcattr changes no model. funcattr.excitation_backprop splits p at residual sums by itself; "
        "or write eltwise_sum(a, b) in place of a + b in the model."
    )


def gradient_to_excitation_backprop_saliency(x: Tensor) -> Tensor:
    """sum_c p_c of an activation with its probabilities in `x.grad`. [N, C, H, W] -> [N, 1, H, W]"""
    return gradient_of("gradient_to_excitation_backprop_saliency", x).sum(1, keepdim=True)


def gradient_to_contrastive_excitation_backprop_saliency(x: Tensor) -> Tensor:
    """max(0, sum_c p_c) of an activation with its contrast in `x.grad`. [N, C, H, W] -> [N, 1, H, W]"""
    return gradient_of("gradient_to_contrastive_excitation_backprop_saliency", x).sum(1, keepdim=True).clamp(min=0)


def excitation_backprop(
    *args: Any,
    context_builder: Any = ExcitationBackpropContext,
    gradient_to_saliency: Any = gradient_to_excitation_backprop_saliency,
    **kwargs: Any,
) -> Any:
    """Excitation backpropagation, by the arguments of `common.saliency`."""
    return saliency(*args, context_builder=context_builder, gradient_to_saliency=gradient_to_saliency, **kwargs)


def contrastive_excitation_backprop(
    model: nn.Module,
    input: Tensor,
    target: Any,
    saliency_layer: str | nn.Module,
    contrast_layer: str | nn.Module,
    classifier_layer: str | nn.Module | None = None,
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
    get_backward_gradient: Any = get_backward_gradient,
    debug: bool = False,
) -> Any:
    """Excitation of the target less that of its dual, whose classifier has negated weights.

    Args:
        model: A module.
        input: [N, C, H, W]
        target: As in `common.saliency`.
        saliency_layer: Layer at whose output the map is made, by name or as the module.
        contrast_layer: Layer at whose output the dual's excitation is subtracted.
        classifier_layer: Layer whose weights are negated; the last linear map by default.
        resize, resize_mode, get_backward_gradient, debug: As in `common.saliency`.

    Returns:
        The map [N, 1, H, W], at least 0; with `debug` the map and the probes by the modules' names.

    Raises:
        FuncattrError: If there is no such layer, or the model cannot be seen through.

    Example:
        >>> import torch
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(16, 8), ReLU(), Linear(8, 3))
        >>> contrastive_excitation_backprop(model, torch.rand(2, 1, 4, 4), 1, "1", "4").shape
        torch.Size([2, 1, 2, 2])
    """
    functional = functionalize(model)
    contrast = functional.site_name("contrastive_excitation_backprop", contrast_layer, "contrast_layer")
    classifier: dict[str, Any] = {"position": "last"}
    if classifier_layer is not None:
        name = functional.site_name("contrastive_excitation_backprop", classifier_layer, "classifier_layer")
        classifier = {"path": name}
    score = score_of(get_backward_gradient, target)
    book = _BOOK | rules.Entry("linear_map", _contrast, required=True, **classifier)
    through = rules.Conditions({contrast: None}, exclusive=True)
    found = attribute(functional, input, score, rules=book, layer=saliency_layer, conditions=through)
    activation = with_gradient(found.root, found.cotangent)
    map = resize_saliency(input, gradient_to_contrastive_excitation_backprop_saliency(activation), resize, resize_mode)
    if not debug:
        return map
    dual = _BOOK | rules.Entry("linear_map", _WINNING(negated=True), required=True, **classifier)
    subtracted = attribute(functional, input, score, rules=dual, layer=contrast).cotangent
    probes = live_pass(
        model, input, target, "", ExcitationBackpropContext, get_backward_gradient, True, (contrast, subtracted)
    )[1]
    return map, probes


def _contrast(call: rules.Call, p: Tensor) -> Tensor:
    """P of the classifier less P of its dual. All below is linear in P, so one pass carries the difference."""
    return _WINNING(call, p) - _WINNING(call, p, negated=True)
