"""The table of all methods: what each is checked against, and what it conserves."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import FunctionalModel, Rulebook, rules

from . import references
from .relevance_references import REFERENCES, lrp_reference

Reference = Callable[[nn.Module, Tensor, Any, str], Tensor]


class Row(NamedTuple):
    """A method with its layer bound by name where it has one."""

    name: str
    method: Callable[..., Tensor]
    reference: Reference
    at_layer: bool = False  # takes layer=, and its result has the layer's spatial size
    conserves: bool = False  # sums to the target's output on a positively homogeneous net
    is_map: bool = False  # its result has one channel
    rules: Rulebook | None = None  # of relevance, which `conservation` accounts for

    def __call__(
        self, model: nn.Module | FunctionalModel | Any, x: Any, target: Any, layer: str, **options: Any
    ) -> Tensor:
        return self.method(model, x, target, **({"layer": layer} if self.at_layer else {}), **options)

    def __repr__(self) -> str:
        return self.name

    @property
    def divides(self) -> bool:
        """Whether it works in relevance space: relevance over z has poles, beside which rounding is amplified."""
        return self.rules is not None and self.rules.space == "relevance"


def _at_input(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target)[1]


def _at_layer(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target, layer)[1]


def _product(at_layer: bool) -> Reference:
    def product(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        root, g = references.pseudo_gradient("gradient", model, x, target, layer if at_layer else None)
        return root * g

    return product


def _map(formula: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda model, x, target, layer: formula(*references.pseudo_gradient("gradient", model, x, target, layer))


def _guided_grad_cam(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    cam = _map(references.grad_cam)(model, x, target, layer)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    return _at_input("guided_backprop")(model, x, target, layer) * F.interpolate(cam, x.shape[2:], mode=mode)


def _from_input(reference: Callable[..., Tensor], **options: Any) -> Reference:
    return lambda model, x, target, layer: reference(model, x, target, **options)


def _from_layer(reference: Callable[..., Tensor]) -> Reference:
    """At a site: of the model as a function of the site's (first) value."""

    def at_layer(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        module, values = model.get_submodule(layer), list[Tensor]()
        with module.register_forward_hook(lambda module, inputs, output: values.append(output.clone())):
            model(x)

        def rest(value: Tensor) -> Tensor:
            given = [value]
            with module.register_forward_hook(lambda module, inputs, output: given.pop() if given else None):
                return model(x)

        return reference(rest, values[0].detach(), target)

    return at_layer


def _contrastive(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """Of the net and of its dual, whose last linear map has the opposite sign; all paths go through `blocks`."""
    dual = copy.deepcopy(model)
    classifier: Any = dual.get_submodule("head.out")
    with torch.no_grad():
        classifier.weight.neg_()
        classifier.bias.neg_()
    excitation = _from_layer(REFERENCES["excitation_backprop"])
    difference = excitation(model, x, target, layer) - excitation(dual, x, target, layer)
    return difference.sum(1, keepdim=True).clamp(min=0)


def _lrp(name: str, **bounds: float) -> Row:
    book = getattr(rules, name if name != "epsilon" else "epsilon_everywhere")(**bounds)
    reference = _from_input(lrp_reference, composite=name, **bounds)
    return Row(f"lrp_{name}", partial(funcattr.lrp, rules=book), reference, rules=book)


ROWS = (
    Row("gradient", funcattr.gradient, _at_input("gradient")),
    Row("gradient_at_layer", funcattr.gradient, _at_layer("gradient"), at_layer=True),
    Row("input_x_gradient", funcattr.input_x_gradient, _product(False), conserves=True),
    Row("input_x_gradient_at_layer", funcattr.input_x_gradient, _product(True), at_layer=True, conserves=True),
    Row("guided_backprop", funcattr.guided_backprop, _at_input("guided_backprop")),
    Row("guided_backprop_at_layer", funcattr.guided_backprop, _at_layer("guided_backprop"), at_layer=True),
    Row("deconvnet", funcattr.deconvnet, _at_input("deconvnet")),
    Row("deconvnet_at_layer", funcattr.deconvnet, _at_layer("deconvnet"), at_layer=True),
    Row("guided_grad_cam", funcattr.guided_grad_cam, _guided_grad_cam, at_layer=True),
    Row("grad_cam", funcattr.grad_cam, _map(references.grad_cam), at_layer=True, is_map=True),
    Row(
        "linear_approx",
        funcattr.linear_approx,
        _map(references.linear_approx),
        at_layer=True,
        conserves=True,
        is_map=True,
    ),
    _lrp("epsilon"),
    _lrp("epsilon_plus"),
    _lrp("epsilon_plus_flat"),
    _lrp("epsilon_alpha2_beta1"),
    _lrp("epsilon_gamma_box", low=-4.0, high=4.0),
    Row(
        "excitation_backprop",
        funcattr.excitation_backprop,
        _from_input(REFERENCES["excitation_backprop"]),
        rules=rules.excitation_backprop(),
    ),
    Row(
        "excitation_backprop_at_layer",
        funcattr.excitation_backprop,
        _from_layer(REFERENCES["excitation_backprop"]),
        at_layer=True,
        rules=rules.excitation_backprop(),
    ),
    # The models here have a site "blocks", between every layer that is asked for and the classifier.
    Row(
        "contrastive_excitation_backprop",
        partial(funcattr.contrastive_excitation_backprop, contrast_layer="blocks"),
        _contrastive,
        at_layer=True,
        is_map=True,
        rules=rules.excitation_backprop(),
    ),
    Row("attnlrp", funcattr.attnlrp, _from_input(REFERENCES["attnlrp"]), conserves=True, rules=rules.attnlrp()),
    Row("cp_lrp", funcattr.cp_lrp, _from_input(REFERENCES["cp_lrp"]), conserves=True, rules=rules.cp_lrp()),
)

DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


def row(name: str) -> Row:
    """The row of that name."""
    return next(r for r in ROWS if r.name == name)


def assert_equal(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-9) -> None:
    """Same shape and dtype, and values equal to `tolerance` of the largest expected one; NaN equals NaN.

    The scale is at least 1e-3: nets here compute with numbers about 1, whose rounding is what an exact zero shows.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    scale = max(1e-3, expected.detach().nan_to_num().abs().max().item())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance, equal_nan=True)


def loop(function: Callable[..., Tensor], *batches: Any) -> Tensor:
    """What `vmap(function)` should give: a Python loop over the first dimension of tensors (or of dicts of them)."""

    def at(batch: Any, i: int) -> Any:
        return {k: v[i] for k, v in batch.items()} if isinstance(batch, dict) else batch[i]

    first = batches[0]
    count = len(next(iter(first.values()))) if isinstance(first, dict) else len(first)
    return torch.stack([function(*(at(b, i) for b in batches)) for i in range(count)])
