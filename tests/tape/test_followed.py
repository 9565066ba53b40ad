"""What reaches a tracked value past the recorder is refused, with the operation, the module and a way out."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

import funcattr
from funcattr import UnsupportedOperationError, rules

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": rules.GRADIENT})


class Part(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def behind_a_layer(function: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), Part(function), nn.ReLU()).double()


def equals_autograd(function: Callable[[Tensor], Tensor], *shape: int) -> None:
    x = torch.randn(*(shape or (3, 4)), dtype=torch.float64)
    out, pull = funcattr.vjp(function, x, rules=RECORDED)
    leaf = x.clone().requires_grad_()
    right = function(leaf)
    assert_equal(out, right.detach())
    assert_equal(pull(torch.ones_like(out))[0], torch.autograd.grad(right.sum(), leaf)[0])


# --- threads ---------------------------------------------------------------------------------------------------------


POOL = ThreadPoolExecutor(1)


def in_a_pool_of_ones_own(x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return x + pool.submit(torch.exp, x).result()


def in_a_pool_that_was_there(x: Tensor) -> Tensor:
    return x + POOL.submit(lambda: (x * 2).exp()).result()


def in_a_thread(x: Tensor) -> Tensor:
    results: list[Tensor] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(x.T.T * 2)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return x + results[0]


def values_in_a_pool(x: Tensor) -> Tensor:
    return x * POOL.submit(lambda: x.sum().item()).result()


@pytest.mark.parametrize(
    "function",
    [in_a_pool_of_ones_own, in_a_pool_that_was_there, in_a_thread, values_in_a_pool],
    ids=lambda f: f.__name__,
)
def test_a_branch_in_another_thread_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    model, x = behind_a_layer(function), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(
        UnsupportedOperationError, match=r"in the module '1', cannot see through \w+ of a value .* in another thread"
    ):
        funcattr.guided_backprop(model, x, 0)


def test_another_thread_may_ask_for_a_shape_and_compute_constants() -> None:
    w = torch.randn(4, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return x * POOL.submit(lambda: w.exp() * x.shape[1]).result()

    equals_autograd(function)


def test_tensors_have_their_own_class_again_after_a_pass() -> None:
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        seen.append(x * 2)
        return torch.relu(seen[0])

    out, _ = funcattr.vjp(function, torch.randn(3), rules=RECORDED)
    assert type(out) is type(seen[0]) is Tensor
    with pytest.raises(ValueError, match="mine"):
        funcattr.vjp(lambda x: (function(x), [].index("mine"))[0], torch.randn(3), rules=RECORDED)  # type: ignore[arg-type]
    assert type(seen[-1]) is Tensor


# --- autograd functions and grad mode --------------------------------------------------------------------------------


class OfQueries(torch.autograd.Function):
    forward: Any = staticmethod(lambda x: x.sign())
    setup_context: Any = staticmethod(lambda ctx, inputs, output: None)
    backward: Any = staticmethod(lambda ctx, g: g)


class OfComparisons(torch.autograd.Function):
    forward: Any = staticmethod(lambda ctx, x: (x > 0).double())
    backward: Any = staticmethod(lambda ctx, g: g)


class WithNoGradInside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.exp()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        return g[0]


class OfNumbers(torch.autograd.Function):
    forward: Any = staticmethod(lambda ctx, x: torch.full((4,), x.sum().item(), dtype=x.dtype))
    backward: Any = staticmethod(lambda ctx, g: g)


def reentrant(x: Tensor) -> Tensor:
    checkpointed: Any = torch.utils.checkpoint.checkpoint(torch.exp, x, use_reentrant=True)
    return checkpointed


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    "function", [OfQueries.apply, OfComparisons.apply, WithNoGradInside.apply, OfNumbers.apply, reentrant]
)
def test_an_autograd_function_is_refused_whatever_it_is_made_of(function: Any) -> None:
    model, x = behind_a_layer(lambda x: torch.relu(x) + function(x)), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(UnsupportedOperationError, match=r"in the module '1', cannot see through an autograd Function"):
        funcattr.guided_backprop(model, x, 0)


def test_an_autograd_function_of_constants_does_not_turn_what_follows_into_constants() -> None:
    w = torch.randn(4, dtype=torch.float64)
    equals_autograd(lambda x: WithNoGradInside.apply(w) * x + OfComparisons.apply(w) * x.exp())


def test_checkpointing_that_is_not_reentrant_is_seen_through() -> None:
    equals_autograd(lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False) * x)  # type: ignore


def test_inference_mode_inside_the_model_makes_constants() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = x.sum() * 2
        return x * scale.clone()

    equals_autograd(function)


def test_inputs_and_weights_of_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        x, model = torch.randn(3, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    twin = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    twin.load_state_dict(model.state_dict())
    leaf = x.clone().requires_grad_()
    right = torch.autograd.grad(twin(leaf)[:, 0].sum(), leaf)[0]
    for given in (x, x.clone()):
        assert_equal(funcattr.gradient(model, given, 0), right, tolerance=1e-6)
        assert_equal(funcattr.attribute(model, given, 0, rules=RECORDED).cotangent, right, tolerance=1e-6)
        with torch.inference_mode():
            assert_equal(funcattr.attribute(model, given, 0, rules=RECORDED).cotangent, right, tolerance=1e-6)


def test_requires_grad_in_forward_changes_nothing() -> None:
    equals_autograd(lambda x: (x * 2).requires_grad_() * x if not x.requires_grad else 2 * x * x)


# --- operators of a library ------------------------------------------------------------------------------------------


@torch.library.custom_op("funcattr_tests::twice_sine", mutates_args=())
def twice_sine(x: Tensor) -> Tensor:
    return 2 * torch.sin(x)


@torch.library.custom_op("funcattr_tests::relu", mutates_args=())
def named_as_another(x: Tensor) -> Tensor:
    return 3 * torch.sin(x)


@torch.library.custom_op("funcattr_tests::no_formula", mutates_args=())
def no_formula(x: Tensor) -> Tensor:
    return torch.sin(x)


@torch.library.custom_op("funcattr_tests::double", mutates_args=("x",))
def double(x: Tensor) -> None:
    x.mul_(2)


def keep_input(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


twice_sine.register_autograd(lambda ctx, g: 2 * g * torch.cos(ctx.saved_tensors[0]), setup_context=keep_input)
named_as_another.register_autograd(lambda ctx, g: 3 * g * torch.cos(ctx.saved_tensors[0]), setup_context=keep_input)


def test_a_custom_operator_with_a_derivative_has_it() -> None:
    equals_autograd(lambda x: twice_sine(x) * x)


def test_a_custom_operator_of_another_library_is_none_of_torchs() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    _, pull = funcattr.vjp(lambda x: named_as_another(x), x, rules={"relu": lambda call, g: 0 * g})
    assert_equal(pull(torch.ones_like(x))[0], 3 * x.cos())


def test_a_custom_operator_without_a_derivative_is_refused_by_name() -> None:
    _, pull = funcattr.vjp(lambda x: no_formula(x) + x, torch.randn(3), rules=RECORDED)
    with pytest.raises(UnsupportedOperationError, match="funcattr_tests::no_formula: torch cannot differentiate"):
        pull(torch.ones(3))


def test_a_custom_operator_that_writes_runs_on_copies() -> None:
    def function(x: Tensor) -> Tensor:
        h = x.detach() * 1
        double(h)
        return h * x

    equals_autograd(function)


def test_quantised_layers_are_refused_in_the_module_that_has_them() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), Part(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize())
    )
    for method in (funcattr.guided_backprop, funcattr.deconvnet):
        with pytest.raises(
            UnsupportedOperationError, match=r"in the module '1', .* quantize_per_tensor, which torch cannot"
        ):
            method(model, torch.randn(2, 4), 0)


@torch.jit.script
def scripted_function(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize("scripted", [scripted_function, torch.jit.script(nn.ReLU())])
def test_what_is_scripted_is_refused(scripted: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"cannot see through (aten\.mul|forward, which is scripted)"):
        funcattr.guided_backprop(lambda x: x.relu() + scripted(x), torch.randn(2, 3), 1)


# --- other ways ------------------------------------------------------------------------------------------------------


def compiles_a_part(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_compiles_itself_is_refused_by_rules() -> None:
    with pytest.raises(UnsupportedOperationError, match="cannot see through a part that compiles itself"):
        funcattr.attribute(compiles_a_part, torch.randn(2, 4), 0, rules=RECORDED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_a_part_that_compiles_itself_has_its_gradient(factor: float) -> None:
    x = torch.ones(2, 4) if factor == 2 else -torch.ones(2, 4)
    assert_equal(funcattr.gradient(compiles_a_part, x, 0), factor * F.one_hot(torch.zeros(2).long(), 4))


def test_a_causal_mask_by_an_object_is_that_mask() -> None:
    x, bias = torch.randn(1, 2, 6, 8), causal_lower_right(3, 6)
    attention: Any = lambda x, mask: F.scaled_dot_product_attention(x[:, :, :3], x, x, attn_mask=mask).flatten(1)  # noqa: E731
    dense = torch.ones(3, 6).tril(3).bool()
    for method in (funcattr.guided_backprop, funcattr.attnlrp):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *a, **k: None)
            maps = [method(lambda x, m=m: attention(x, m).relu(), x, 0) for m in (bias, dense)]
        assert_equal(*maps, tolerance=1e-6)


def test_packed_sequences_have_the_gradient_of_autograd() -> None:
    lstm = nn.LSTM(4, 5, batch_first=True).double()

    def function(x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0].sum(1)

    equals_autograd(function, 2, 6, 4)


def test_sparse_layouts_have_the_gradient_of_autograd() -> None:
    equals_autograd(lambda x: (x.to_sparse_csr() @ x).tanh(), 4, 4)


@pytest.mark.parametrize("equation", ["bchw,cd->bd", "bchw,hx,wy->bcxy", "bchw,cd,de,c"])
@pytest.mark.parametrize("rule", [rules.epsilon, rules.z_plus], ids=repr)
def test_einsum_of_any_number_of_factors_is_the_linear_map_that_it_is(equation: str, rule: Any) -> None:
    sizes = {"c": 3, "h": 4, "w": 4, "d": 2, "x": 3, "y": 2, "e": 5}
    terms = equation.partition("->")[0].split(",")[1:]
    torch.manual_seed(0)
    factors = [torch.randn(*(sizes[letter] for letter in term), dtype=torch.float64) for term in terms]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    one: Any = lambda x: torch.einsum(equation, x, *factors)  # noqa: E731
    matrix: Any = torch.autograd.functional.jacobian(lambda x: one(x).flatten(), x)
    two: Any = lambda x: F.linear(x.flatten(), matrix.flatten(1))  # noqa: E731
    book = rules.composite("one", convolution=rule, dense=rule)
    r = torch.randn_like(one(x))
    found, right = (funcattr.vjp(f, x, rules=book)[1](g)[0] for f, g in ((one, r), (two, r.flatten())))
    assert right.any()
    assert_equal(found, right)


@pytest.mark.parametrize("book", ["epsilon_plus", "epsilon", "attnlrp", "epsilon_plus_flat", "excitation_backprop"])
def test_autocast_inside_the_model_changes_relevance_by_rounding_alone(book: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    x = torch.rand(2, 3, 8, 8)

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(x)

    found, right = (funcattr.lrp(f, x, 2, rules=book, start="output") for f in (cast, net))
    if book in ("epsilon", "attnlrp"):  # in a net of relus these are x times the gradient, which has the same roundings
        leaf = x.clone().requires_grad_()
        right = x * torch.autograd.grad(cast(leaf)[:, 2].sum(), leaf)[0]
    assert found.dtype is torch.float32
    assert (found - right).norm() < 0.05 * right.norm()


@pytest.mark.parametrize("layer", ["linear", "addmm"])
def test_the_adjoint_of_a_complex_linear_map_is_conjugate(layer: str) -> None:
    weight, bias = torch.randn(4, 4, dtype=torch.complex128), torch.randn(4, dtype=torch.complex128)

    def function(x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(x)
        z = F.linear(spectrum, weight, bias) if layer == "linear" else torch.addmm(bias, spectrum, weight)
        return z.abs()

    equals_autograd(function)


# --- the plain gradient ----------------------------------------------------------------------------------------------


def decodes_in_place(x: Tensor) -> Tensor:
    y = torch.sigmoid(x * 2)
    y[..., :2] = y[..., :2] * 2 - 0.5
    return y


def writes_what_exp_saved(x: Tensor) -> Tensor:
    y = torch.exp(x * 1)
    return y.mul_(2) * x


def writes_into_one_of_several_views(x: Tensor) -> Tensor:
    a, b = (x * 1).unbind(0)
    a.mul_(3)
    return torch.stack([a * b, b])


IN_PLACE: dict[Any, Callable[[Tensor], Tensor]] = {
    decodes_in_place: lambda x: torch.cat([torch.sigmoid(2 * x)[..., :2] * 2 - 0.5, torch.sigmoid(2 * x)[..., 2:]], -1),
    writes_what_exp_saved: lambda x: 2 * x.exp() * x,
    writes_into_one_of_several_views: lambda x: torch.stack([3 * x[0] * x[1], x[1]]),
}


@pytest.mark.parametrize("how", ["function", "module", "layer"])
@pytest.mark.parametrize("fn", IN_PLACE)
def test_the_plain_gradient_of_what_autograd_cannot_write_is_the_recorders(fn: Any, how: str) -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    model = fn if how == "function" else nn.Sequential(nn.Identity(), Part(fn))
    found = funcattr.gradient(model, x, 1, layer="0" if how == "layer" else None)
    leaf = x.clone().requires_grad_()
    assert_equal(found, torch.autograd.grad(IN_PLACE[fn](leaf)[:, 1].sum(), leaf)[0])


def test_a_models_own_error_stays_its_own() -> None:
    for rulebook in (None, RECORDED):
        with pytest.raises(RuntimeError, match="must match the size"):
            funcattr.attribute(lambda x: x + torch.ones(7), torch.randn(2, 4), 0, rules=rulebook)


def test_the_padding_mask_of_an_encoder_leaves_the_other_tokens_alone() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).double().eval()
    pad, x = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool(), torch.randn(2, 5, 8, dtype=torch.float64)
    for method in (funcattr.attnlrp, funcattr.guided_backprop, funcattr.lrp):
        alone = method(lambda x: encoder(x)[:, 0], x[:1, :3], 0)
        padded = method(lambda x: encoder(x, src_key_padding_mask=pad)[:, 0], x, 0)
        assert_equal(padded[:1, :3], alone, tolerance=1e-5)  # a masked weight of zero has a stabiliser, too
        assert not padded[0, 3:].any()
