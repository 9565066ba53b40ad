"""The small models are what they say: shapes, determinism, sites, life in every logit."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from funcattr.testing.seeding import uniform

from .sweeps import sweep
from .zoo import CASES, Case, case
from .zoo.large import resnet50, vgg16, vit_b_16


@pytest.fixture(params=CASES, ids=repr)
def each(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_logits_have_their_shape_and_a_second_call_repeats_them(each: Case) -> None:
    model, (x,) = each.build(), each.inputs()
    before = x.clone()
    out = each.logits(model, x)
    assert out.shape == (2, each.outputs)
    assert out.dtype == x.dtype == torch.float64
    assert out.isfinite().all()
    assert torch.equal(each.logits(model, x), out)
    assert torch.equal(x, before)


def test_builds_are_equal_and_leave_the_global_random_state_alone(each: Case) -> None:
    state = torch.get_rng_state()
    first, second = each.build(), each.build()
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    values, others = first.state_dict(), second.state_dict()
    assert values.keys() == others.keys()
    assert all(torch.equal(values[name], others[name]) for name in values)
    assert all(torch.equal(a, b) for a, b in zip(each.inputs(), each.inputs(), strict=True))


def test_layer_is_a_module_that_runs_once_and_returns_a_tensor(each: Case) -> None:
    model, (x,) = each.build(), each.inputs()
    seen: list[torch.Tensor] = []

    def keep(_: object, inputs: object, out: torch.Tensor) -> None:
        seen.append(out)

    model.get_submodule(each.layer).register_forward_hook(keep)
    each.logits(model, x)
    (value,) = seen
    assert isinstance(value, torch.Tensor)
    assert value.shape[0] == 2
    assert value[0].numel() > value.shape[1]  # more than one position


def test_every_logit_depends_on_every_example(each: Case) -> None:
    model, (x,) = each.build(), each.inputs()
    x.requires_grad_()
    out = each.logits(model, x)
    for k in range(each.outputs):
        (gradient,) = torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)
        assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()


def test_batch_equals_loop_over_examples(each: Case) -> None:
    model, (x,) = each.build(), each.inputs()
    out = each.logits(model, x)
    for i in range(2):
        row = {key: value[i : i + 1] for key, value in each.kwargs().items()}
        tolerance = 1e-4 if each.in_float32 else 1e-9
        torch.testing.assert_close(each.logits(model, x[i : i + 1], row)[0], out[i], rtol=0, atol=tolerance)


def test_no_parameter_is_trivial(each: Case) -> None:
    for name, value in each.build().state_dict().items():
        if value.is_floating_point():
            assert value.std(correction=0) > 1e-3 or value.numel() == 1, name


def test_has_relu_is_as_declared(each: Case) -> None:
    called: set[str] = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            called.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch():
        each.logits(each.build(), each.inputs()[0])
    assert bool(called & {"relu", "relu_"}) == each.has_relu


def test_float32_build_agrees(each: Case) -> None:
    (x,), (x32,) = each.inputs(), each.inputs(torch.float32)
    exact = each.logits(each.build(), x)
    single = each.logits(each.build(torch.float32), x32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


def test_eager_and_fused_attention_agree() -> None:
    for name in ("bert", "llama", "llama_next", "hf_vit", "gpt2", "qwen2", "qwen3", "gemma3", "mixtral", "qwen2_moe"):
        eager, fused = (case(f"{name}_{kind}") for kind in ("eager", "sdpa"))
        x = eager.inputs()[0]
        a, b = (one.logits(one.build(), x) for one in (eager, fused))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 if eager.in_float32 else 1e-9)


def test_unknown_case_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"case\('alexnet'\): no such case"):
        case("alexnet")


LARGE: dict[str, tuple[Callable[[], nn.Module], int, list[str]]] = {
    "vgg16": (vgg16, 138_357_544, ["features.28.weight", "classifier.6.bias"]),
    "resnet50": (resnet50, 25_557_032, ["layer1.0.downsample.0.weight", "layer4.2.bn3.running_var", "fc.bias"]),
    "vit_b_16": (vit_b_16, 86_567_656, ["class_token", "encoder.layers.encoder_layer_11.mlp.3.weight"]),
}


@pytest.mark.parametrize("name", sweep(LARGE, quick=["resnet50"]))
def test_large_models_have_their_true_size_and_run(name: str) -> None:
    build, parameters, names = LARGE[name]
    model = build()
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert set(names) <= model.state_dict().keys()
    with torch.no_grad():
        out = model(uniform(1, 3, 224, 224, dtype=torch.float32))
    assert out.shape == (1, 1000)
    assert out.isfinite().all()
    assert out.std() > 1e-2
