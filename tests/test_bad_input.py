"""Bad input gets the documented error, which starts with the call, and leaves the model as it was."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import funcattr

from .contract import ROWS, Row
from .sweeps import sweep


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Identity()  # the contrast layer of the contract's rows
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.relu(self.conv(x))).mean((2, 3)))


class Returns(NamedTuple):
    """An output type of a user's own."""

    scores: Tensor
    other: Tensor


X = torch.linspace(-1, 1, 2 * 2 * 5 * 5).reshape(2, 2, 5, 5)
every_method = pytest.mark.parametrize("row", ROWS, ids=repr)

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "class out of range": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
    "negative class out of range": ({"target": -4}, ValueError, r"\(target=-4\): class out of range"),
    "float class": ({"target": 1.0}, TypeError, r"\(target=1.0\): expected an int, .*got float"),
    "an index for each of three": ({"target": [(0,), (1,), (2,)]}, ValueError, r"per example, 2 of them, got 3"),
    "one-hot integers": ({"target": torch.eye(3).long()[:2]}, ValueError, r"\[\d, 3\]: 1 numbers, got 3"),
    "vectors": ({"target": (torch.tensor([0, 1]),) * 2}, ValueError, r"a tuple of 2 vectors could mean"),
    "listed class out of range": ({"target": [0, 7]}, ValueError, r"\(target=\[0, .*7\]\): class out of range"),
    "too many classes": (
        {"target": torch.tensor([0, 1, 2])},
        ValueError,
        r"expected one class or index per example, 2 of them",
    ),
    "too few classes": ({"target": [1]}, ValueError, r"expected one class or index per example, 2 of them, got 1"),
    "no target": ({"target": None}, ValueError, r"\(target=None\): expected an output with one number per example"),
    "cotangent's shape": (
        {"target": torch.ones(2, 4)},
        ValueError,
        r"expected the output's shape \[\d, 3\], got shape",
    ),
    "boolean class": ({"target": True}, TypeError, r"expected an int, a list of ints, .*, or an integer tensor"),
    "class as text": ({"target": "cat"}, TypeError, r"expected an int, a list of ints, .*, or an integer tensor"),
    "boolean tensor": ({"target": torch.tensor([True, False])}, TypeError, r"expected integer classes, got torch.bool"),
    "index too long": ({"target": (0, 1)}, ValueError, r"index into the trailing dimensions of the output"),
    "function's shape": (
        {"target": lambda y: y},
        ValueError,
        r"expected one number per example, shape \[\d\], got \[\d, 3\]",
    ),
    "target elsewhere": ({"target": torch.zeros(2, dtype=torch.long, device="meta")}, ValueError, r"target is on meta"),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "no batch": ({"x": X.sum()}, ValueError, r"expected a batch of at least one example, got shape \[\]"),
    "no tensor": ({"x": [1.0, 2.0]}, TypeError, r"expected a tensor, a tuple or a dict of tensors, got float"),
    "input elsewhere": ({"x": X.to("meta")}, ValueError, r"the input is on meta, the model on cpu"),
    "output's name": ({"output": "scores"}, ValueError, r"\(output='scores'\): the model's output has no such part"),
    "model": ({"model": 3}, TypeError, r"functionalize\(model=\.\.\.\): expected a module or a callable, got int"),
}


ASKED = [
    (r, what)
    for what, (change, _, _) in BAD.items()
    for r in ROWS
    if not (what == "no target" and r.every_class) and (r.reads_target or not {"target", "output"} & set(change))
]
# All methods put their question through `ask`: one of each family is asked all of it, the others two things.
FAMILIES = (
    "gradient",
    "guided_backprop_at_layer",
    "grad_cam",
    "lrp_epsilon_plus",
    "contrastive_excitation_backprop",
    "noise_tunnel",
    "integrated_gradients",
    "expected_gradients",
    "layer_conductance",
    "deep_lift",
    "rise",
    "occlusion",
    "kernel_shap",
    "iba",
    "attnlrp",
)
OF_ALL = ("class out of range", "empty batch")
QUICK = [f"{r}-{what}" for r, what in ASKED if r.name in FAMILIES or what in OF_ALL]


@pytest.mark.parametrize(("row", "what"), sweep(ASKED, quick=QUICK))
def test_named_error_and_nothing_changed(row: Row, what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": _Net().eval(), "x": X, "target": 1, "layer": "conv"} | change
    model = arguments["model"]
    before = copy.deepcopy(model)
    with pytest.raises(kind, match=message):
        row(**arguments)
    if isinstance(model, nn.Module):
        for name, p in model.state_dict().items():
            assert torch.equal(p, before.state_dict()[name])
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all("forward" not in vars(m) for m in model.modules())


@pytest.mark.parametrize("row", [r for r in ROWS if r.at_layer], ids=repr)
def test_unknown_layers_list_the_closest(row: Row) -> None:
    model = _Net().eval()
    with pytest.raises(funcattr.UnknownSiteError, match=r"\(layer='cnv'\): no such site 'cnv'\. Closest: 'conv'"):
        row(model, X, 1, "cnv")
    with pytest.raises(funcattr.UnknownSiteError, match=r"the site 'unused' exists, but this call .* did not reach it"):
        row(model, X, 1, "unused")
    with pytest.raises(funcattr.UnknownSiteError, match=r"no such site 'relu#1'"):
        row(model, X, 1, "relu#1")


@pytest.mark.parametrize("name", ["grad_cam", "linear_approx", "eigen_cam", "ablation_cam"])
def test_layer_maps_need_a_channel_dimension(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\(layer='head', channel_dim=5\): expected features with the batch"):
        getattr(funcattr, name)(_Net().eval(), X, 1, layer="head", channel_dim=5)
    with pytest.raises(TypeError, match=rf"{name}\(layer=\.\.\.\): expected the name of a site or a module"):
        getattr(funcattr, name)(_Net().eval(), X, 1, layer=3)
    with pytest.raises(TypeError, match="layer"):
        getattr(funcattr, name)(_Net().eval(), X, 1)


@pytest.mark.parametrize(
    "name", ["grad_cam", "linear_approx", "layer_cam", "xgrad_cam", "eigen_cam", "score_cam", "ablation_cam"]
)
def test_layer_maps_of_tokens_ask_where_the_channels_are(name: str) -> None:
    method = getattr(funcattr, name)
    tokens = nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Linear(42, 3))
    x = torch.randn(2, 7, 4)
    message = (
        rf"^{name}\(layer='0'\): expected channel_dim= for features of shape \[2, 7, 6\]: say channel_dim=-1 for to"
    )
    with pytest.raises(ValueError, match=message):
        method(tokens, x, 1, layer="0")
    assert method(tokens, x, 1, layer="0", channel_dim=-1).shape == (2, 1, 7)
    assert method(tokens, x, 1, layer="0", channel_dim=1).shape == (2, 1, 6)


def test_guided_grad_cam_needs_a_layer_of_the_inputs_dimensions() -> None:
    with pytest.raises(ValueError, match=r"guided_grad_cam\(layer='head'\): the map has 0 spatial dimensions"):
        funcattr.guided_grad_cam(_Net().eval(), X, 1, layer="head")


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (lambda x: None, TypeError, r"expected the model to return a tensor, got NoneType"),
        (lambda x: x.flatten(1).argmax(1), TypeError, r"expected a floating-point output, got torch.int64"),
        (
            lambda x: {"a": x, "b": x},
            ValueError,
            r"several things; say which with output=. It has the keys \['a', 'b'\]",
        ),
        (lambda x: (x, x), ValueError, r"say which with output=. It has 2 items, fields unnamed"),
        (lambda x: Returns(x, x), ValueError, r"It has 2 items, fields \('scores', 'other'\)"),
    ],
)
def test_a_model_that_returns_nothing_usable(model: Any, kind: type[Exception], message: str) -> None:
    for method in (funcattr.gradient, funcattr.guided_backprop):
        with pytest.raises(kind, match=message):
            method(model, X, (0, 0, 0))


@pytest.mark.parametrize("target", [lambda y: y.detach()[:, 0], lambda y: torch.ones(2)])
def test_a_target_that_does_not_depend_on_the_output(target: Any) -> None:
    with pytest.raises(
        funcattr.UntrackedPathError, match=r"gradient\(target=<function>\): its value does not depend on"
    ):
        funcattr.gradient(_Net().eval(), X, target)


def test_integer_inputs_say_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"gradient: expected a floating-point input, got torch.int64. .* give layer="):
        funcattr.gradient(nn.Embedding(3, 2), torch.zeros(2, 4, dtype=torch.long), (0, 0))


def test_a_class_tensor_out_of_range_is_refused_where_values_can_be_seen_else_nan() -> None:
    model, classes = _Net().eval(), torch.tensor([1, 3])
    with pytest.raises(
        ValueError, match=r"gradient\(target=\.\.\.\): class out of range in \[1, 3\]; the output has 3"
    ):
        funcattr.gradient(model, X, classes)
    mapped = torch.vmap(lambda x, t: funcattr.gradient(model, x[None], t)[0])(X, classes)
    assert mapped[0].isfinite().all()
    assert mapped[1].isnan().any()
