"""The slow references of relevance on whole models: conservation, limits, and that values stay what they are."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import references
from .contract import assert_equal
from .relevance_references import REFERENCES, Composite, attnlrp_reference, composites, cp_lrp_reference, lrp_reference
from .relevance_references import linear_rules as rules
from .zoo import CASES, Case, case

each_case = pytest.mark.parametrize("c", CASES, ids=repr)


def unbiased(model: nn.Module) -> nn.Module:
    module: Any
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
    return model


@each_case
def test_the_models_values_are_unchanged(c: Case) -> None:
    model, (x,) = c.build(), c.inputs()
    plain, outputs = c.logits(model, x), []

    def call(t: Tensor) -> Tensor:
        outputs.append(c.logits(model, t))
        return outputs[-1]

    for name in ("epsilon", "excitation_backprop", "attnlrp", "cp_lrp"):
        assert REFERENCES[name](call, x, 1).isfinite().all()
        assert_equal(outputs.pop(), plain, tolerance=1e-6 if c.in_float32 else 1e-12)


RECTIFIED = "cnn vgg vgg_bn resnet_basic resnet_bottleneck densenet googlenet inception squeezenet shufflenet".split()
UNSHIFTED = [name for name in RECTIFIED if name != "googlenet"]  # which shifts its input


@pytest.mark.parametrize("name", RECTIFIED)
def test_gradient_space_of_a_relu_net_is_input_x_gradient(name: str) -> None:
    c = case(name)
    model, (x,) = c.build(), c.inputs()
    expected = x * references.pseudo_gradient("gradient", model, x, 1)[1]
    for reference in (attnlrp_reference, cp_lrp_reference):
        assert_equal(reference(model, x, 1), expected, tolerance=1e-12)


@pytest.mark.parametrize("name", UNSHIFTED)
def test_epsilon_without_biases_tends_to_input_x_gradient(name: str) -> None:
    c = case(name)
    model, (x,) = unbiased(c.build()), c.inputs()
    rule = partial(rules.epsilon, eps=1e-13)
    actual = lrp_reference(model, x, 1, Composite(rule, rule, eps=1e-13))
    expected = x * references.pseudo_gradient("gradient", model, x, 1)[1]
    assert_equal(actual * model(x)[:, 1, None, None, None], expected, tolerance=1e-5)


# A unit that is off but passes relevance (before a shortcut) may have no positive part; one that is on, no
# negative part.
CONSERVING = [("epsilon", name) for name in UNSHIFTED]
_PLAIN = ("vgg", "vgg_bn", "densenet", "inception")
CONSERVING += [(composite, name) for composite in ("epsilon_plus", "epsilon_plus_flat") for name in _PLAIN]
CONSERVING += [("excitation_backprop", name) for name in ("vgg", "vgg_bn", "densenet", "inception", "shufflenet")]
CONSERVING += [(composite, "cnn") for composite in composites() if composite != "epsilon_gamma_box"]


@pytest.mark.parametrize(("composite", "name"), CONSERVING)
def test_relevance_is_conserved_without_biases(composite: str, name: str) -> None:
    c = case(name)
    total = lrp_reference(unbiased(c.build()), c.inputs()[0], 1, composite).sum((1, 2, 3))
    assert_equal(total, torch.ones_like(total), tolerance=1e-3)


@pytest.mark.parametrize("name", ["llama_eager", "llama_sdpa", "qwen3_sdpa", "gemma3_eager", "gemma2_next_eager"])
def test_cp_lrp_of_models_without_biases_sums_to_the_output(name: str) -> None:
    c = case(name)
    model, (x,) = c.build(), c.inputs()
    actual = cp_lrp_reference(partial(c.logits, model), x, 1).sum((1, 2))
    assert_equal(actual, c.logits(model, x)[:, 1].detach(), tolerance=1e-5)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_eager_attention_equals_the_fused_one(name: str) -> None:
    results = []
    for attention in ("eager", "sdpa"):
        c = case(f"bert_{attention}")
        results.append(REFERENCES[name](partial(c.logits, c.build()), c.inputs()[0], 1))
    assert_equal(*results, tolerance=1e-4)  # scores are scaled before or after the stabiliser


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_nets_without_biases_conserve(name: str) -> None:
    c = case(name)
    model, (x,) = c.build(), c.inputs()
    with torch.no_grad():
        for each, parameter in model.named_parameters():
            parameter *= "bias" not in each
    total = lrp_reference(model, x, 1, "epsilon").sum((1, 2))
    assert_equal(total, torch.ones_like(total), tolerance=1e-2)
    output = model(x)[:, 1].detach()
    assert_equal(attnlrp_reference(model, x, 1).sum((1, 2)), output, tolerance=1e-9)


@pytest.mark.parametrize("name", [n for n in REFERENCES if n not in ("attnlrp", "cp_lrp")])
def test_composites_differ(name: str) -> None:
    c = case("vgg_bn")
    model, (x,) = c.build(), c.inputs()
    mine = REFERENCES[name](model, x, 1)
    others = [REFERENCES[n](model, x, 1) for n in composites() if n != name]
    assert all((mine - other).abs().max() > 1e-3 for other in others)
