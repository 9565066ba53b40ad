"""TorchRay's backpropagation methods against its numbers, with every option, and the live model left as it was."""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.compat.torchray.attribution import common
from funcattr.compat.torchray.attribution.common import saliency
from funcattr.compat.torchray.attribution.deconvnet import DeConvNetContext, DeConvNetReLU, deconvnet
from funcattr.compat.torchray.attribution.excitation_backprop import (
    EltwiseSum,
    ExcitationBackpropContext,
    contrastive_excitation_backprop,
    eltwise_sum,
    excitation_backprop,
    update_resnet,
)
from funcattr.compat.torchray.attribution.grad_cam import grad_cam
from funcattr.compat.torchray.attribution.gradient import gradient
from funcattr.compat.torchray.attribution.guided_backprop import (
    GuidedBackpropContext,
    GuidedBackpropReLU,
    guided_backprop,
)
from funcattr.compat.torchray.attribution.linear_approx import linear_approx
from funcattr.testing.seeding import settle, uniform

from . import references as reference

net: Any = settle(reference.Net)
X = uniform(2, 3, 14, 14)
METHODS: dict[str, tuple[Any, Any, Any, str]] = {
    "gradient": (gradient, reference.PLAIN, reference.largest, ""),
    "guided": (guided_backprop, reference.GUIDED, reference.largest, ""),
    "deconvnet": (deconvnet, reference.DECONVNET, reference.largest, ""),
    "grad_cam": (grad_cam, reference.PLAIN, reference.cam, "third"),
    "linear_approx": (linear_approx, reference.PLAIN, reference.linear, "third"),
    "excitation": (excitation_backprop, reference.excitation(), reference.total, "act"),
}
each_method = pytest.mark.parametrize("name", METHODS)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@contextlib.contextmanager
def left_alone(model: nn.Module, x: Tensor) -> Any:
    """No hook, flag, gradient or value of the model and of x changes inside."""

    def state() -> Any:
        tensors = [x, *model.state_dict(keep_vars=True).values()]
        hooks = [
            (k, len(v)) for m in model.modules() for k, v in vars(m).items() if "hook" in k and hasattr(v, "__len__")
        ]
        return [(t.requires_grad, t.grad, t.clone(), t._backward_hooks) for t in tensors], hooks, relu_names()

    before = state()
    yield
    after = state()
    assert before[1:] == after[1:]
    for (flag, grad, value, hooks), (flag2, grad2, value2, hooks2) in zip(before[0], after[0], strict=True):
        assert flag == flag2 and grad is grad2 and torch.equal(value, value2) and hooks is hooks2


def relu_names() -> tuple[Any, ...]:
    return torch.relu, F.relu, F.conv2d, F.linear, torch.nn.ReLU.forward


# --- the numbers -----------------------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize(
    "options",
    [
        {"target": 2},
        {"target": [0, 4], "resize": True},
        {"target": torch.tensor([3, 3]), "resize": (7, 5), "resize_mode": "nearest"},
        {"target": np.array([1, 0]), "resize": (9, 14), "smooth": 0.1},
        {"target": 0, "smooth": 0.2},
    ],
    ids=str,
)
def test_each_call_equals_the_formulas(name: str, options: dict[str, Any]) -> None:
    options = dict(options)
    target = options.pop("target")
    method, ops, to_map, layer = METHODS[name]
    found = method(net, X, target, saliency_layer=layer, **options)
    map = to_map(*reference.pseudo_gradient(net, X, target, layer, ops))
    map = reference.resized(map, options.get("resize", False), X, options.get("resize_mode", "bilinear"))
    sigma = options.get("smooth", 0) * max(map.shape[2:])
    close(found, reference.smoothed(map, sigma, "replicate"))


@each_method
@pytest.mark.parametrize("layer", ["second", "third", "act"])
def test_a_layer_is_named_or_given_as_the_module(name: str, layer: str) -> None:
    method, ops, to_map, _ = METHODS[name]
    expected = to_map(*reference.pseudo_gradient(net, X, 1, layer, ops))
    with left_alone(net, X):
        close(method(net, X, 1, saliency_layer=layer), expected)
        close(method(net, X, 1, saliency_layer=net.get_submodule(layer)), expected)


@each_method
def test_the_live_pass_and_the_pure_one_agree_and_leave_the_model_alone(name: str) -> None:
    method, ops, to_map, layer = METHODS[name]

    class Own:
        def __init__(self) -> None:
            self.inner = contexts[name]()

        def __enter__(self) -> None:
            self.inner.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.inner.__exit__(*error)

    contexts = {
        "guided": GuidedBackpropContext,
        "deconvnet": DeConvNetContext,
        "excitation": ExcitationBackpropContext,
    }
    contexts = {name: contexts.get(name, common.NullContext) for name in METHODS}
    with left_alone(net, X):
        live = method(net, X, 1, saliency_layer=layer, context_builder=Own)
        map, probes = method(net, X, 1, saliency_layer=layer, debug=True)
    close(live, to_map(*reference.pseudo_gradient(net, X, 1, layer, ops)))
    close(map, live)
    h, p = reference.pseudo_gradient(net, X, 1, "third", ops)
    close(probes["third"].data[0].detach(), h)
    close(probes["third"].data[0].grad, p)
    close(probes[""].data[0].grad, reference.pseudo_gradient(net, X, 1, "", ops)[1])
    assert list(probes) == [name for name, _ in net.named_modules()]


def test_a_cotangent_and_a_function_for_one_replace_the_class() -> None:
    seed = uniform(2, 5, seed=4)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(x), x, seed)
    close(gradient(net, X, seed), reference.largest(X, expected))
    own = lambda output, target: target * torch.ones_like(output)  # noqa: E731
    (expected,) = torch.autograd.grad(net(x).sum() * 3, x)
    close(gradient(net, X, 3.0, get_backward_gradient=own), reference.largest(X, expected))
    close(
        saliency(net, X, 1, gradient_to_saliency=lambda x: x.grad * x),
        X * reference.pseudo_gradient(net, X, 1, "", reference.PLAIN)[1],
    )


def test_guided_lets_p_pass_at_zero_as_torchray_does_and_funcattr_does_not() -> None:
    x = torch.tensor([[0.0, 0.0, 1.0, -1.0]])
    model: Any = nn.Sequential(nn.ReLU(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, -3.0, 4.0, 5.0]]))
    y = saliency(model, x, 0, context_builder=GuidedBackpropContext, gradient_to_saliency=lambda x: x.grad)
    assert y.tolist() == [[2.0, 0.0, 4.0, 0.0]]
    assert funcattr.guided_backprop(model, x, 0).tolist() == [[0.0, 0.0, 4.0, 0.0]]


@pytest.mark.parametrize("options", [{}, {"resize": True}, {"resize": (7, 5), "resize_mode": "nearest"}], ids=str)
@pytest.mark.parametrize("classifier", [None, "last", net.last], ids=["default", "name", "module"])
def test_contrastive_excitation_equals_torchrays_steps(options: dict[str, Any], classifier: Any) -> None:
    found = contrastive_excitation_backprop(net, X, [1, 3], "act", "act2", classifier, **options)
    map = reference.contrastive(net, X, [1, 3], "act", "act2")
    assert map.max() > 1e-3
    close(found, reference.resized(map, options.get("resize", False), X, options.get("resize_mode", "bilinear")))


def test_the_probes_of_a_contrastive_pass_hold_the_contrast() -> None:
    with left_alone(net, X):
        map, probes = contrastive_excitation_backprop(net, X, 1, "act", "act2", debug=True)
    close(probes["act"].data[0].grad.sum(1, keepdim=True).clamp(min=0), map)
    assert probes["act2"].contrast is not None


def test_excitation_sums_to_one_and_eltwise_sum_splits() -> None:
    class Skip(nn.Module):
        plus: Any
        conv: Any

        def __init__(self, plus: Any) -> None:
            super().__init__()
            self.plus, self.conv = plus, settle(lambda: nn.Conv2d(2, 2, 3, padding=1, bias=False))
            self.conv.weight.data.abs_()  # no unit is dead
            self.head = settle(lambda: nn.Linear(32, 3))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(x)
            return self.head(self.plus(torch.relu(self.conv(h)), h).flatten(1))

    x = uniform(2, 2, 4, 4).abs()
    for plus in (eltwise_sum, EltwiseSum()):
        p = excitation_backprop(Skip(plus), x, 1)
        close(p.sum((1, 2, 3)), torch.ones(2).double())
        # At sums of tensors that are all at least 0 it is what funcattr does at every sum.
        close(p, funcattr.excitation_backprop(Skip(torch.add), x, 1).sum(1, keepdim=True))
    close(excitation_backprop(Skip(torch.add), x, 1).sum((1, 2, 3)), torch.full((2,), 2.0).double())


# --- one's own passes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "ops"),
    [
        (common.NullContext, reference.PLAIN),
        (GuidedBackpropContext, reference.GUIDED),
        (DeConvNetContext, reference.DECONVNET),
        (ExcitationBackpropContext, reference.excitation()),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_context_gives_a_forward_and_backward_of_ones_own_the_rules(context: Any, ops: Any, inside: bool) -> None:
    x = X.clone().requires_grad_()
    seed = reference.one_hot(net(X), 2)
    with context():
        y = net(x)
        if inside:
            y.backward(seed)
    if not inside:
        y.backward(seed)
    close(y.detach(), net(X).detach())
    close(x.grad, reference.pseudo_gradient(net, X, 2, "", ops)[1])
    net.zero_grad(set_to_none=True)
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.parametrize("spelling", ["method", "module", "in place", "method in place", "clamp", "maximum"])
@pytest.mark.parametrize(
    ("context", "rule"),
    [
        (GuidedBackpropContext, reference.Guided),
        (DeConvNetContext, reference.Deconvolved),
        (lambda: common.ReLUContext(GuidedBackpropReLU), reference.Guided),
        (lambda: common.ReLUContext(DeConvNetReLU), reference.Deconvolved),
        (lambda: common.ReLUContext(reference.Guided), reference.Guided),
    ],
)
def test_every_spelling_of_relu_has_the_rule_in_a_context(spelling: str, context: Any, rule: Any) -> None:
    spelled = {
        "method": lambda h: h.relu(),
        "module": nn.ReLU(),
        "in place": nn.ReLU(inplace=True),
        "method in place": lambda h: (h.relu_(), h)[1],
        "clamp": lambda h: h.clamp(min=0),
        "maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    }[spelling]
    x, w, p = uniform(3, 4), uniform(4, 4, seed=1), uniform(3, 4, seed=2)
    grads = []
    for relu in (spelled, rule.apply):
        leaf = x.clone().requires_grad_()
        with context() if relu is spelled else contextlib.nullcontext():
            y = relu(leaf @ w)
            y.backward(p)
        close(y.detach(), torch.relu(x @ w))
        grads.append(leaf.grad)
    close(*grads)


def test_a_context_reads_the_weights_when_the_backward_pass_runs() -> None:
    x = X.clone().requires_grad_()
    with ExcitationBackpropContext():
        y = net(x)
        net.last.weight.data.neg_()
        y.backward(reference.one_hot(y, 1))
        net.last.weight.data.neg_()
    close(x.grad, reference.pseudo_gradient(net, X, 1, "", reference.excitation(negated=net.last))[1])
    net.zero_grad(set_to_none=True)


def test_a_context_may_be_entered_again_and_nested_and_is_left_on_errors() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    context = DeConvNetContext()
    with contextlib.suppress(KeyError), context, context:
        torch.relu(x).sum().backward()
        raise KeyError
    assert torch.overrides._get_current_function_mode_stack() == [] and x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]


def test_what_the_model_writes_after_a_call_does_not_change_its_rule() -> None:
    x = uniform(6).requires_grad_()
    with GuidedBackpropContext():
        h = x * 1
        y = torch.relu(h)
        h += 5
        y *= 2
        y.sum().backward()
    close(x.grad, 2 * (x.detach() > 0).double())
    x, w = uniform(2, 3).requires_grad_(), uniform(4, 3, seed=2)
    with ExcitationBackpropContext():
        h = x * 1
        y = F.linear(h, w)
        h += 5
        y.sum().backward()
    above = w.clamp(min=0)
    close(x.grad, x.detach() * ((1 / (x.detach() @ above.T)) @ above))


def test_a_parameter_as_the_input_and_keywords_in_any_order_have_the_rule() -> None:
    x, w = nn.Parameter(uniform(2, 3)), nn.Parameter(uniform(4, 3, seed=2))
    p = uniform(2, 4, seed=3)
    with ExcitationBackpropContext(), GuidedBackpropContext():
        F.linear(weight=w, input=torch.relu(x)).backward(p)
    relu, above = x.detach().clamp(min=0), w.detach().clamp(min=0)
    back = relu * ((p / (relu @ above.T + 1e-20)) @ above)
    close(x.grad, back * (back > 0) * (x >= 0))
    assert w.grad is None


def test_a_rule_is_derived_by_the_cotangent() -> None:
    x = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    with GuidedBackpropContext():
        y = torch.relu(x)
        (g,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(g.sum(), x)
    close(g.detach(), torch.tensor([0.0, 12.0, 27.0]))
    close(second, torch.tensor([0.0, 12.0, 18.0]))


def test_a_context_does_nothing_without_gradients() -> None:
    x = X.clone().requires_grad_()
    for context in (GuidedBackpropContext, ExcitationBackpropContext):
        with context(), torch.no_grad():
            close(net(x), net(X))
        with context():
            close(net(X).detach(), net(X).detach())


def test_a_context_frees_what_it_holds() -> None:
    import gc
    import weakref

    x = uniform(4).requires_grad_()
    with GuidedBackpropContext():
        h = x * 2
        alive = weakref.ref(h)
        y = torch.relu(h).sum()
    del h, y
    gc.collect()
    assert alive() is None


def test_excitation_context_can_be_off_and_can_say_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    x = X.clone().requires_grad_()
    with ExcitationBackpropContext(enable=False, debug=True):
        (g,) = torch.autograd.grad(net(x).sum(), x)
    (plain,) = torch.autograd.grad(net(x).sum(), x)
    close(g, plain)
    assert capsys.readouterr().out == ""
    with ExcitationBackpropContext(debug=True):
        net(x)
    assert len(capsys.readouterr().out.splitlines()) == 7


# --- probes ----------------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """Gives a tuple, a dict in it. [N, 3] -> ([N, 3], {"sum": [N]})"""

    def forward(self, x: Tensor) -> Any:
        return x * 2, {"sum": x.sum(1)}


def test_a_probe_notes_inputs_and_outputs_with_their_gradients() -> None:
    module, x = nn.ReLU(inplace=True), uniform(2, 3)
    before = x.clone()
    with left_alone(module, x):
        probe = common.Probe(module)
        module(x).sum().backward()
        probe.remove()
    assert torch.equal(x, before)
    close(probe.data[0].detach(), x)
    close(probe.data[0].grad, (x > 0).double())
    parts = Parts()
    with common.Probe(parts, target="output") as probe:
        y, more = parts(x)
        (3 * y.sum() + more["sum"].sum()).backward()
        assert [tuple(t.shape) for t in probe.data] == [(2, 3), (2,)]
        close(probe.data[0].grad, torch.full((2, 3), 3.0).double())
    assert not parts._forward_hooks and len(probe.data) == 2


def test_a_probe_sees_past_a_relu_in_place_and_each_pass_anew() -> None:
    model: Any = settle(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
    )
    x = uniform(1, 3, 8, 8)
    with common.Probe(model[0], "output") as probe, GuidedBackpropContext():
        for _ in range(2):
            model(x)[0, 1].backward()
    close(probe.data[0].detach(), model[0](x).detach())
    expected = funcattr.guided_backprop(model, x, 1, layer="0")
    assert len(probe.data) == 1
    close(probe.data[0].grad, expected)


@each_method
def test_a_probe_that_was_left_on_the_model_changes_no_method(name: str) -> None:
    method, _, _, layer = METHODS[name]
    expected = method(net, X, 1, saliency_layer=layer)
    with common.Probe(net.act, "output") as probe, common.Probe(net.first):
        close(method(net, X, 1, saliency_layer=layer), expected)
        close(method(net, X, 1, saliency_layer=layer, debug=True)[0], expected)
        assert len(probe.data) == 1  # of the live pass


def test_a_probe_without_gradients_still_notes_values() -> None:
    module = nn.Linear(3, 2)
    with common.Probe(module, "output") as probe, torch.no_grad():
        y = module(torch.ones(1, 3))
    assert torch.equal(probe.data[0], y)


def test_probes_are_off_again_when_the_model_raises() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            raise RuntimeError("mine")

    model, x = Broken(), torch.ones(1, 3)
    with left_alone(model, x), pytest.raises(RuntimeError, match="mine"):
        saliency(model, x, 0, context_builder=contextlib.nullcontext, saliency_layer="inner", debug=True)


def test_words_of_probes_and_layers_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^Probe\(target='outputs'\): expected 'input' or 'output'"):
        common.Probe(net, target="outputs")
    for context in (common.NullContext, contextlib.nullcontext):
        with pytest.raises((ValueError, funcattr.FuncattrError), match="no such"):
            saliency(net, X, 1, saliency_layer="fourth", context_builder=context)
    assert common.get_module(net, "fourth") is None and common.get_module(net, net.act) is net.act
    assert common.get_module(net, "act") is net.act and common.attach_debug_probes(net) is None


# --- seeds and refusals ----------------------------------------------------------------------------------------------


def test_backward_gradients_are_one_hot_over_space() -> None:
    output = uniform(2, 3, 2, 4)
    for y in (1, [1], torch.tensor(1), torch.tensor([1, 1])):
        found = common.get_backward_gradient(output, y)
        expected = torch.zeros(2, 3, 2, 4).double()
        expected[:, 1] = 1
        close(found, expected)
    found = common.get_backward_gradient(output, [0, 2])
    assert found[0, 0].eq(1).all() and found[1, 2].eq(1).all() and found.sum() == 16
    assert torch.equal(common.get_backward_gradient(output, output), output)
    with pytest.raises(funcattr.FuncattrError, match=r"^get_backward_gradient\(y=\.\.\.\): expected a class, one for"):
        common.get_backward_gradient(output, [1, 1, 1])
    with pytest.raises(funcattr.FuncattrError, match=r"^get_backward_gradient\(y=\[3\]\): expected classes between 0"):
        common.get_backward_gradient(output, 3)


def test_pointing_gradients_are_a_spatial_softmax() -> None:
    output = uniform(1, 3, 2, 4) * 200
    found = common.get_pointing_gradient(output, 1)
    weight = (output[0, 1] - output[0, 1].max()).exp()
    close(found[0, 1], weight / weight.sum())
    assert found[0, [0, 2]].eq(0).all()
    close(common.get_pointing_gradient(output / 200, 1, normalize=False)[0, 1], (output[0, 1] / 200).exp())
    close(common.get_pointing_gradient(output[..., 0, 0], 1), torch.tensor([[0.0, 1.0, 0.0]]).double())
    fully = settle(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)))
    x = X[:1]
    close(
        gradient(fully, x, 1, get_backward_gradient=common.get_pointing_gradient),
        funcattr.gradient(fully, x, funcattr.pointing(1)).abs().amax(1, keepdim=True),
    )
    with pytest.raises(funcattr.FuncattrError, match="expected one example, got 2"):
        common.get_pointing_gradient(X, 1)


def test_what_cannot_be_served_says_what_to_use() -> None:
    with pytest.raises(funcattr.FuncattrError, match=r"^Patch\('torch\.relu', \.\.\.\): funcattr patches no function"):
        common.Patch("torch.relu", F.relu)
    with pytest.raises(funcattr.FuncattrError, match=r"^update_resnet: funcattr changes no model"):
        update_resnet(net)
    with pytest.raises(funcattr.FuncattrError, match=r"^gradient_to_saliency: the tensor has no gradient"):
        common.gradient_to_saliency(torch.ones(1, 3, 4, 4))
