"""The composition matrix: methods inside vmap, compile, grad and make_fx, each equal to the eager single calls.

`torch.compile` runs with the `aot_eager` backend, which traces all that Inductor would and then runs the traced
operations; `test_inductor_equals_eager` generates code as well.
"""

import contextlib
import functools
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import funcattr
from funcattr import FunctionalModel

from .contract import assert_equal, loop, row
from .sweeps import long, sweep
from .zoo import case

METHODS = ("gradient", "guided_backprop", "deconvnet", "grad_cam", "linear_approx")
MODELS = ("cnn", "resnet_basic", "vit")
# Relevance takes longer to compile: each rulebook on the model that has most of what it is for.
RELEVANCE = (
    ("lrp_epsilon_plus", "cnn"),
    ("lrp_epsilon_plus", "resnet_basic"),
    ("lrp_epsilon_plus", "vit"),
    ("lrp_epsilon_gamma_box", "cnn"),
    ("excitation_backprop_at_layer", "resnet_basic"),
    ("attnlrp", "vit"),
)
# Loops over samples: the matrix in small; each method's own tests have the rest.
SAMPLING = (("noise_tunnel", "cnn"), ("integrated_gradients_at_layer", "cnn"))
PAIRS = (*((method, model) for model in MODELS for method in METHODS), *RELEVANCE, *SAMPLING)

# What torch itself refuses, by model and transform, with the way out that the tests take. Each has a test that torch
# still refuses it without funcattr.
REFUSED = {
    ("vit", "second derivative"): "The fused attention kernels of the CPU have no second derivative; with "
    "sdpa_kernel(SDPBackend.MATH) around the call, attention runs in operations that have one.",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the result is the plain gradient.*:UserWarning"),  # the ViT has no relu
    pytest.mark.filterwarnings("ignore:There is a performance drop.*:UserWarning"),  # sdpa has no batching rule
]


def _twice_differentiable(model: str) -> contextlib.AbstractContextManager[Any]:
    refused = (model, "second derivative") in REFUSED
    return sdpa_kernel(SDPBackend.MATH) if refused else contextlib.nullcontext()


class Setting(NamedTuple):
    """A method on a model, and what it is mapped over."""

    call: Callable[..., Tensor]  # (fm, x, target)
    fm: FunctionalModel
    x: Tensor


@functools.cache
def _model(name: str) -> tuple[FunctionalModel, Tensor, str]:
    c = case(name)
    return funcattr.functionalize(c.build()), c.inputs()[0], c.layer


def _setting(method: str, model: str) -> Setting:
    fm, x, layer = _model(model)
    options: dict[str, Any] = {}
    if model == "vit" and method in ("grad_cam", "linear_approx"):
        options["channel_dim"] = -1
    return Setting(lambda fm, x, t: row(method)(fm, x, t, layer, **options), fm, x)


def _vmap_examples(s: Setting) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    return lambda x: s.call(s.fm, x[None], 1)[0], (s.x,)


def _vmap_targets(s: Setting) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    return lambda t: s.call(s.fm, s.x, t), (torch.arange(3),)


def _vmap_parameters(s: Setting) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    stacked = {name: torch.stack([p.detach(), 0.9 * p.detach()]) for name, p in s.fm.params.items()}
    return lambda params: s.call(s.fm.bind(params), s.x, 1), (stacked,)


def _vmap_noise(s: Setting) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    return lambda e: s.call(s.fm, s.x + e, 1), (0.1 * torch.randn(2, *s.x.shape, dtype=s.x.dtype),)


MAPS = {"examples": _vmap_examples, "targets": _vmap_targets, "parameters": _vmap_parameters, "noise": _vmap_noise}


def pairs_by_default(*quick: str) -> pytest.MarkDecorator:
    """Each pair; without `--long` those of these ids."""
    return pytest.mark.parametrize(("method", "model"), sweep(PAIRS, quick=quick))


each_map = pytest.mark.parametrize("over", MAPS)
# Compilation takes seconds. Each map has a gradient or a ruled method on two models, and a loop over samples or more.
QUICK_MAPS = (
    "examples-gradient-cnn",
    "targets-attnlrp-vit",
    "parameters-lrp_epsilon_plus-cnn",
    "noise-guided_backprop-cnn",
)


@pytest.fixture
def compiled(fresh_dynamo: None) -> Callable[..., Callable[..., Any]]:
    return functools.partial(torch.compile, fullgraph=True, backend="aot_eager")


# Of the tests that run without compilation.
EAGER = (
    *(f"{method}-{model}" for method, model in PAIRS if model == "cnn"),
    "lrp_epsilon_plus-resnet_basic",
    "excitation_backprop_at_layer-resnet_basic",
    "guided_backprop-resnet_basic",
    "linear_approx-vit",
    "attnlrp-vit",
)


@pairs_by_default(*EAGER)
@each_map
def test_vmap_equals_loop(method: str, model: str, over: str) -> None:
    function, batches = MAPS[over](_setting(method, model))
    assert_equal(torch.vmap(function)(*batches), loop(function, *batches))


@pytest.mark.parametrize(
    ("over", "method", "model"), sweep([(over, *pair) for over in MAPS for pair in PAIRS], quick=QUICK_MAPS)
)
def test_compiled_vmap_equals_loop(method: str, model: str, over: str, compiled: Any) -> None:
    function, batches = MAPS[over](_setting(method, model))
    assert_equal(compiled(torch.vmap(function))(*batches), loop(function, *batches))


@pairs_by_default(
    "lrp_epsilon_gamma_box-cnn",
    "noise_tunnel-cnn",
    "grad_cam-resnet_basic",
    "attnlrp-vit",
)
def test_compiled_equals_eager_without_recompiling(method: str, model: str, fresh_dynamo: None) -> None:
    s = _setting(method, model)
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(lambda x, t: s.call(s.fm, x, t), fullgraph=True, backend=counter)
    for x, t in ((s.x, torch.tensor([0, 1])), (s.x.flip(0), torch.tensor([2, 0]))):
        assert_equal(function(x, t), s.call(s.fm, x, t))
    assert counter.frame_count == 1


def _penalty(s: Setting) -> Callable[[Tensor], Tensor]:
    """A weighted sum of the attribution, as a function of the input."""
    weight = torch.randn_like(s.call(s.fm, s.x, 1))
    return lambda x: (weight * s.call(s.fm, x, 1)).sum()


@pairs_by_default(*EAGER)
def test_grad_of_the_attribution_equals_differences_and_autograd(method: str, model: str) -> None:
    s = _setting(method, model)
    penalty = _penalty(s)
    with _twice_differentiable(model):
        derivative = torch.func.grad(penalty)(s.x)
        direction = torch.randn_like(s.x)
        # Small enough that no relu of these nets changes sign on the way.
        step = 1e-7
        difference = (penalty(s.x + step * direction) - penalty(s.x - step * direction)) / (2 * step)
        torch.testing.assert_close((derivative * direction).sum(), difference, rtol=1e-4, atol=1e-5)
        leaf = s.x.clone().requires_grad_()
        assert_equal(torch.autograd.grad(penalty(leaf), leaf)[0], derivative)


@pairs_by_default("lrp_epsilon_gamma_box-cnn", "attnlrp-vit")
def test_compiled_grad_of_the_attribution_equals_eager(method: str, model: str, compiled: Any) -> None:
    s = _setting(method, model)
    penalty = _penalty(s)
    with _twice_differentiable(model):
        assert_equal(compiled(torch.func.grad(penalty))(s.x), torch.func.grad(penalty)(s.x))


@pairs_by_default("lrp_epsilon_gamma_box-cnn")
def test_grad_by_parameters_of_a_compiled_attribution(method: str, model: str, compiled: Any) -> None:
    s = _setting(method, model)
    params = {name: p.detach() for name, p in s.fm.params.items()}
    # A class whose map is not all clipped to zero, as Grad-CAM's may be.
    target = next(t for t in range(4) if s.call(s.fm, s.x, t).abs().max() > 0)

    def penalty(params: dict[str, Tensor]) -> Tensor:
        return s.call(s.fm.bind(params), s.x, target).square().sum()

    with _twice_differentiable(model):
        eager, traced = torch.func.grad(penalty)(params), compiled(torch.func.grad(penalty))(params)
    assert any(g.abs().max() > 0 for g in eager.values())
    for name, g in eager.items():
        assert_equal(traced[name], g)


@pairs_by_default(*EAGER)
def test_make_fx_gives_a_plain_graph_that_equals_eager(method: str, model: str) -> None:
    s = _setting(method, model)
    graph = make_fx(lambda x: s.call(s.fm, x, 1))(s.x)
    functions = {n.target for n in graph.graph.nodes if n.op == "call_function"} - {operator.getitem}
    assert all(isinstance(f, torch._ops.OpOverload) for f in functions)
    other = s.x.flip(0) * 0.5
    assert_equal(graph(other), s.call(s.fm, other, 1))


@pairs_by_default(*EAGER)
def test_eight_threads_equal_serial(method: str, model: str) -> None:
    s = _setting(method, model)
    serial = [s.call(s.fm, s.x, t) for t in range(4)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: s.call(s.fm, s.x, i % 4), range(24)))
    for i, result in enumerate(results):
        assert_equal(result, serial[i % 4])


KINDS = ("module", "function of the output", "pointing", "list", "callable model")


@pytest.mark.parametrize(
    ("what", "method"),
    sweep(
        [(what, method) for what in KINDS for method in (*METHODS, "lrp_epsilon_plus", "attnlrp")],
        quick=(
            "pointing-guided_backprop",
            "module-lrp_epsilon_plus",
            "callable model-lrp_epsilon_plus",
            "function of the output-grad_cam",
            "list-attnlrp",
        ),
    ),
)
def test_compiled_takes_what_eager_takes(method: str, what: str, compiled: Any) -> None:
    s, c = _setting(method, "cnn"), case("cnn")
    module, pointing = c.build(), funcattr.pointing(1)
    plain = funcattr.functionalize(lambda x: funcattr.site(x * 2, c.layer).tanh().relu().sum(3).flatten(1))
    target: Any = {"function of the output": lambda y: y[:, 1] ** 2, "pointing": pointing, "list": [1, 0]}.get(what, 1)
    model: Any = {"module": module, "callable model": plain}.get(what, s.fm)
    assert_equal(compiled(lambda x: s.call(model, x, target))(s.x), s.call(model, s.x, target))


def test_compiled_pointing_takes_class_tensors(compiled: Any) -> None:
    s = _setting("guided_backprop", "cnn")
    function = compiled(lambda x, t: s.call(s.fm, x, funcattr.pointing(t)))
    classes = torch.tensor([1, 0])
    assert_equal(function(s.x, classes), s.call(s.fm, s.x, funcattr.pointing(classes)))


@long
def test_inductor_compiles_an_edited_model(fresh_dynamo: None) -> None:
    fm, x, layer = _model("cnn")
    edited = funcattr.edit(fm, {layer: lambda h: 2 * h.tanh()})
    function = torch.compile(lambda x: funcattr.guided_backprop(edited, x, 1), fullgraph=True)
    assert_equal(function(x), funcattr.guided_backprop(edited, x, 1))


def test_compiled_sees_an_optimisers_steps(fresh_dynamo: None) -> None:
    module = case("cnn").build()
    fm, x = funcattr.functionalize(module), case("cnn").inputs()[0]
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(lambda x: funcattr.guided_backprop(fm, x, 1), fullgraph=True, backend=counter)
    before = function(x)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    assert_equal(function(x), funcattr.guided_backprop(module, x, 1))
    assert (function(x) - before).abs().max() > 0
    assert counter.frame_count == 1


@pytest.mark.parametrize("model", sweep(["mobilenet_v3", "swin"], quick=["mobilenet_v3"]))
def test_compiled_rules_see_what_dynamo_hides(model: str, compiled: Any) -> None:
    """Dynamo does not show F.hardswish or F.pad to torch function modes; the compiled result must not miss them."""
    c = case(model)
    fm, x = funcattr.functionalize(c.build()), c.inputs()[0]
    book = funcattr.Rulebook(
        {"hardswish": lambda call, p: 2 * p, "softmax": lambda call, p: 3 * p, "pad": funcattr.rules.GRADIENT}
    )

    def ruled(x: Tensor) -> Tensor:
        return funcattr.attribute(fm, x, 1, rules=book).cotangent

    assert_equal(compiled(ruled)(x), ruled(x))


def test_compiled_errors_carry_the_message(compiled: Any) -> None:
    s = _setting("guided_backprop", "cnn")
    for function, message in (
        (lambda x: funcattr.guided_backprop(s.fm, x, 99), r"guided_backprop\(target=99\): class out of range"),
        (lambda x: funcattr.gradient(s.fm, x, 1, layer="nowhere"), r"no such site .*nowhere"),
        (lambda x: funcattr.guided_backprop(lambda v: s.fm(v), x, 1), r"Build functionalize\(callable\) outside"),
        (lambda x: funcattr.vjp(s.fm, x, rules={"relu": lambda c, p: p})[0], r"cannot trace a ruled pullback"),
    ):
        with pytest.raises(Unsupported, match=message):
            compiled(function)(s.x)


def test_a_graph_break_keeps_results_and_errors(fresh_dynamo: None) -> None:
    """Without fullgraph, what cannot be compiled runs eagerly, with its own errors."""
    s = _setting("guided_backprop", "cnn")

    def broken(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return funcattr.guided_backprop(lambda v: s.fm(v), x, 1)

    def ruled(x: Tensor) -> Tensor:
        return funcattr.vjp(s.fm, x, rules={"relu": lambda call, p: p})[0]

    assert_equal(torch.compile(broken, backend="aot_eager")(s.x), s.call(s.fm, s.x, 1))
    assert_equal(torch.compile(ruled, backend="aot_eager")(s.x), s.fm(s.x))
    with pytest.raises(ValueError, match=r"guided_backprop\(target=99\): class out of range"):
        torch.compile(lambda x: funcattr.guided_backprop(s.fm, x, 99), backend="aot_eager")(s.x)


@pytest.mark.parametrize("method", sweep((*METHODS, "lrp_epsilon_plus", "attnlrp"), quick=["attnlrp"]))
def test_inductor_equals_eager(method: str, fresh_dynamo: None) -> None:
    fm, x, layer = _model("cnn")
    fm32, x32 = fm.bind({k: v.detach().float() for k, v in {**fm.params, **fm.buffers}.items()}), x.float()
    function = torch.compile(lambda x: row(method)(fm32, x, 1, layer), fullgraph=True)
    assert_equal(function(x32), row(method)(fm32, x32, 1, layer), tolerance=1e-5)


def test_torch_still_refuses_what_the_table_says() -> None:
    assert set(REFUSED) == {("vit", "second derivative")}
    module, (x,) = case("vit").build(), case("vit").inputs()
    gradient = torch.func.grad(lambda x: module(x)[:, 1].sum())
    with pytest.raises(
        RuntimeError, match=r"derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward"
    ):
        torch.func.grad(lambda x: gradient(x).square().sum())(x)
