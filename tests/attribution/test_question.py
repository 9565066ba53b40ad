"""A question: the number that is explained, of a batch and of copies of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.attribution.question import Question, ask
from funcattr.model.functional import as_functional
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal


def dense() -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Unflatten(1, (3, 2))))


def of(model: Any, x: Any, target: Any, output: Any = None, args: Any = (), kwargs: Any = None) -> Question:
    return ask("f", model, x, target, output=output, args=args, kwargs=kwargs)


def copied(x: Tensor, times: int) -> Tensor:
    return torch.stack([row for row in x for _ in range(times)])


TARGETS: dict[str, tuple[Any, Any]] = {
    "class": (1, lambda y: y[:, 1].sum(1)),
    "classes": ([0, 2], lambda y: torch.stack([y[0, 0].sum(), y[1, 2].sum()])),
    "class tensor": (torch.tensor([2, 1]), lambda y: torch.stack([y[0, 2].sum(), y[1, 1].sum()])),
    "index": ((1, 0), lambda y: y[:, 1, 0]),
    "indices": ((torch.tensor([0, 1]), 1), lambda y: torch.stack([y[0, 0, 1], y[1, 1, 1]])),
    "cotangent": (uniform(2, 3, 2, seed=8), lambda y: (y * uniform(2, 3, 2, seed=8)).flatten(1).sum(1)),
    "function": (lambda y: y[:, 0, 0] * y[:, 1, 1], lambda y: y[:, 0, 0] * y[:, 1, 1]),
    "pointing": (funcattr.pointing([1, 0]), lambda y: torch.stack([y[0, 1].logsumexp(0), y[1, 0].logsumexp(0)])),
}
each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_the_number_is_that_of_the_output_written_down(name: str) -> None:
    target, expected = TARGETS[name]
    model, x = dense(), uniform(2, 4)
    assert_equal(of(model, x, target).scores(), expected(model(x).detach()), tolerance=1e-14)


@each_target
def test_its_derivative_is_the_gradient(name: str) -> None:
    target, model, x = TARGETS[name][0], dense(), uniform(2, 4)
    question = of(model, x, target)
    found = torch.func.grad(lambda x: question.of_copies(x).scores().sum())(x)
    assert_equal(found, funcattr.gradient(model, x, target), tolerance=1e-13)


@each_target
@pytest.mark.parametrize("times", [1, 3])
def test_copies_get_their_examples_targets_and_keywords(name: str, times: int) -> None:
    target, x, mask = TARGETS[name][0], uniform(2, 4), uniform(2, 4, seed=3)
    model, constant = dense(), uniform(4, seed=4)

    def masked(x: Tensor, constant: Tensor, mask: Tensor) -> Tensor:
        assert constant.shape == (4,) and len(mask) == len(x)
        return model(x * mask + constant)

    question = of(masked, x, target, args=(constant,), kwargs={"mask": mask})
    noisy = copied(x, times) + uniform(2 * times, 4, seed=5)
    each = [question.of_copies(noisy[s::times]).scores() for s in range(times)]
    assert_equal(question.of_copies(noisy).scores(), torch.stack(each, 1).flatten(), tolerance=1e-13)


def test_outputs_are_picked_by_name() -> None:
    x = uniform(2, 4)
    model = dense()
    several: Any = lambda v: {"other": v, "scores": model(v)}  # noqa: E731
    assert_equal(of(several, x, 1, "scores").outputs(), model(x).detach(), tolerance=0)
    with pytest.raises(ValueError, match=r"^f\(output='logits'\): the model's output has no such part"):
        of(several, x, 1, "logits").scores()
    with pytest.raises(ValueError, match=r"^f: the model returns several things; say which with output="):
        of(several, x, 1).scores()


def test_one_number_per_example_needs_no_target() -> None:
    x = uniform(3, 4)
    for model in (lambda v: v.sum(1), lambda v: v.sum(1, keepdim=True)):
        assert_equal(of(model, x, None).scores(), x.sum(1), tolerance=1e-15)


def test_an_infinite_output_elsewhere_does_not_count() -> None:
    x = uniform(2, 1)
    model = lambda v: torch.cat([v, -torch.inf + 0 * v], 1)  # noqa: E731
    assert_equal(of(model, x, 0).scores(), x[:, 0], tolerance=0)


def test_several_inputs_and_models_that_write_into_them() -> None:
    a, b = uniform(2, 3), uniform(2, 3, seed=2)
    before = a.clone()

    def writes(a: Tensor, b: Tensor) -> Tensor:
        return a.mul_(b).sum(1)

    for x in ((a, b), {"a": a, "b": b}):
        assert_equal(of(writes, x, None).scores(), (before * b).sum(1), tolerance=1e-15)
    assert torch.equal(a, before) and a._version == 0


def test_weights_of_modules_are_constants_and_bound_ones_are_not() -> None:
    model, x = dense(), uniform(2, 4)
    assert not of(model, x, 1).scores().requires_grad
    fm = funcattr.functionalize(model)
    bound = fm.bind({"0.weight": fm.params["0.weight"].detach().clone().requires_grad_()})
    assert of(bound, x, 1).scores().requires_grad
    assert as_functional(fm) is fm and of(fm, x, 1).model is fm


def test_a_model_in_training_mode_gets_a_warning_at_the_callers_line() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(4, 2)).double().train()
    with pytest.warns(UserWarning, match=r"^integrated_gradients: the model is in training mode") as caught:
        funcattr.integrated_gradients(model, uniform(2, 4), 1, steps=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (uniform(2, 4).to("meta"), ValueError, r"^f\(x=\.\.\.\): the input is on meta, the model on cpu"),
        (uniform(0, 4), ValueError, r"^f\(x=\.\.\.\): expected a batch of at least one example"),
        ([1.0], TypeError, r"^f\(x=\.\.\.\): expected a tensor, a tuple or a dict of tensors, got float"),
    ],
)
def test_inputs_are_checked(x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        of(dense(), x, 1)


def test_the_size_of_an_example_counts_all_inputs() -> None:
    a, b = torch.zeros(5, 2, 3), torch.zeros(5)
    model = torch.nn.Identity()
    assert [of(model, x, None).example_size for x in (a, b, (a, b), {"a": a, "b": a})] == [6, 1, 7, 12]


def test_a_layer_is_a_name_or_the_module() -> None:
    model: Any = dense()
    x, fm = uniform(2, 4), funcattr.functionalize(model)
    for given in (model, fm):
        assert ask("f", given, x, 1, layer=model[2]).layer == ask("f", given, x, 1, layer="2").layer == "2"
    assert_equal(funcattr.gradient(model, x, (1, 0), layer=model[2]), funcattr.gradient(model, x, (1, 0), layer="2"))
    with pytest.raises(ValueError, match=r"^f\(layer=<Tanh>\): the module is not one of the model's\. Give the name"):
        ask("f", model, x, layer=nn.Tanh())
    with pytest.raises(
        TypeError, match=r"^f\(layer=\.\.\.\): expected the name of a site or a module of the model, got int"
    ):
        ask("f", model, x, layer=3)  # type: ignore[arg-type]


def test_a_module_is_a_layer_of_the_snapshot_that_was_taken_of_it_alone() -> None:
    model: Any = dense()
    x, fm, before = uniform(2, 4), funcattr.functionalize(model), model[2]
    edited = funcattr.edit(fm, {"0": lambda h: 2 * h})
    model[2] = nn.Linear(before.in_features, before.out_features)
    for given in (fm, edited):
        assert ask("f", given, x, layer=before).layer == "2"
        with pytest.raises(ValueError, match=r"^f\(layer=<Linear>\): the module is not one of the model's"):
            ask("f", given, x, layer=model[2])
    assert ask("f", model, x, layer=model[2]).layer == "2"
    del model  # the modules that the user still has are found
    assert ask("f", fm, x, layer=before).layer == "2"


@pytest.mark.parametrize("x", [{}, (), None, 3.0, (torch.ones(2, 4), "text")], ids=repr)
def test_inputs_without_a_tensor_are_named(x: Any) -> None:
    with pytest.raises(TypeError, match=r"^f\(x=\.\.\.\): expected a tensor, a tuple or a dict of tensors, got"):
        ask("f", dense(), x)
