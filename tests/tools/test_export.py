"""Exported programs: what the function gives, for any batch, in a process that has neither the model nor funcattr."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import funcattr
from funcattr import FunctionalModel

from ..contract import assert_equal
from ..sweeps import long, sweep
from ..zoo import case

Function = Callable[[FunctionalModel, Tensor], Any]


def _answer(fm: FunctionalModel, x: Tensor) -> Any:
    found = funcattr.attribute(fm, x, 2)
    return found.output, found.root * found.cotangent


def _channels_at(site: str) -> int:
    return -1 if site == "encoder.dropout" else 1  # tokens [N, T, C] of the transformer


FUNCTIONS: dict[str, Function] = {
    "logits and map": _answer,
    "gradient": lambda fm, x: funcattr.gradient(fm, x, 2),
    "grad_cam": lambda fm, x: funcattr.grad_cam(fm, x, 2, layer=fm.sites[2], channel_dim=_channels_at(fm.sites[2])),
    "lrp": lambda fm, x: funcattr.lrp(fm, x, 2, start="one"),
    "integrated_gradients": lambda fm, x: funcattr.integrated_gradients(fm, x, 2, steps=3),
}


def _every_class(fm: FunctionalModel, x: Tensor) -> Tensor:
    return torch.vmap(lambda k: funcattr.gradient(fm, x, k))(torch.arange(4))


# torch.func.vjp of fused attention takes the size of the batch for a constant; the rulebooks' walk does not.
REFUSED = {("vit", name) for name in ("logits and map", "gradient", "integrated_gradients")}
MODELS = ("cnn", "vgg_bn", "resnet_basic", "vit")


def _leaves(tree: Any) -> list[Tensor]:
    return pytree.tree_leaves(tree)


@pytest.mark.filterwarnings("ignore:.*sdpa.*:UserWarning", "ignore:There is a performance drop.*:UserWarning")
@pytest.mark.parametrize(
    ("dynamic_batch", "name", "model"),
    sweep(
        [(dynamic, name, model) for dynamic in (False, True) for name in FUNCTIONS for model in MODELS],
        quick=(
            "False-logits and map-cnn",
            "True-grad_cam-cnn",
            "True-integrated_gradients-cnn",
            "False-gradient-vit",
        ),
    ),
)
def test_equals_the_function(model: str, name: str, dynamic_batch: bool) -> None:
    c = case(model)
    fm, x = funcattr.functionalize(c.build()), c.inputs()[0]
    run = partial(FUNCTIONS[name], fm)
    if dynamic_batch and (model, name) in REFUSED:
        with pytest.raises(ValueError, match="something in the function makes the size of the batch a constant"):
            funcattr.export(run, x, dynamic_batch=True)
        return
    program = funcattr.export(run, x, dynamic_batch=dynamic_batch)
    given = torch.cat([x, 1.5 * x, x.flip(0)[:1]]) if dynamic_batch else 1.5 * x
    for actual, expected in zip(_leaves(program.module()(given)), _leaves(run(given)), strict=True):
        assert_equal(actual, expected)


@long
def test_vmap_goes_into_programs_of_one_size() -> None:
    c = case("cnn")
    fm, x = funcattr.functionalize(c.build()), c.inputs()[0]
    program = funcattr.export(partial(_every_class, fm), x)
    assert_equal(program.module()(1.5 * x), _every_class(fm, 1.5 * x))
    with pytest.raises(ValueError, match="something in the function makes the size of the batch a constant, as vmap"):
        funcattr.export(partial(_every_class, fm), x, dynamic_batch=True)


LOADS = """
import sys
sys.modules["funcattr"] = None  # an import of it would fail
import torch
folder = sys.argv[1]
program, (x, expected) = torch.export.load(f"{folder}/explain.pt2"), torch.load(f"{folder}/expected.pt")
logits, relevance = program.module()(x)
torch.testing.assert_close((logits, relevance), expected)
assert not any(name == "tests" or name.startswith(("tests.", "funcattr.")) for name in sys.modules)
print("equal")
"""


@pytest.mark.parametrize("model", sweep(("cnn", "resnet_basic"), quick=["cnn"]))
def test_runs_where_neither_the_model_nor_funcattr_is(model: str, tmp_path: Path) -> None:
    c = case(model)
    fm, x = funcattr.functionalize(c.build(torch.float32)), c.inputs(torch.float32)[0]
    run = partial(_answer, fm)
    torch.export.save(funcattr.export(run, x, dynamic_batch=True), tmp_path / "explain.pt2")
    more = torch.cat([x, 2 * x])
    torch.save((more, run(more)), tmp_path / "expected.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOADS, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr


def test_targets_are_inputs_too() -> None:
    c = case("cnn")
    fm, x, classes = funcattr.functionalize(c.build()), c.inputs()[0], torch.tensor([1, 3])
    program = funcattr.export(
        lambda x, k: funcattr.lrp(fm, x, k, rules="epsilon", start="one"), x, classes, dynamic_batch=True
    )
    more, others = torch.cat([x, x]), torch.tensor([0, 2, 3, 1])
    assert_equal(program.module()(more, others), funcattr.lrp(fm, more, others, rules="epsilon", start="one"))


def test_named_tuples_become_plain_ones() -> None:
    fm, x = funcattr.functionalize(nn.Linear(3, 2)), torch.ones(2, 3)
    found = funcattr.export(lambda x: funcattr.attribute(fm, x, 1), x).module()(x)
    assert type(found) is tuple
    assert_equal(found[1], funcattr.gradient(fm, x, 1), tolerance=1e-6)


def test_leaves_the_model_alone() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval(),
        torch.ones(2, 1, 4, 4),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    funcattr.export(lambda x: funcattr.gradient(model, x, 1), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("example", "dynamic_batch", "kind", "message"),
    [
        ((3,), False, TypeError, r"export\(example=...\): expected tensors, got int"),
        ((torch.ones(0, 3),), True, ValueError, r"one batch in common, got shapes \[\[0, 3\]\]"),
        ((torch.ones(2, 3), torch.ones(4)), True, ValueError, r"got shapes \[\[2, 3\], \[4\]\]"),
    ],
)
def test_named_errors(example: Any, dynamic_batch: bool, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        funcattr.export(lambda x, y=None: x, *example, dynamic_batch=dynamic_batch)


def test_a_program_that_is_for_one_size_of_batch_is_refused() -> None:
    with pytest.raises(funcattr.FuncattrError, match="or at the size of the batch"):
        funcattr.export(lambda x: 2 * x if x.shape[0] < 6 else 3 * x, torch.ones(2, 3), dynamic_batch=True)


def test_not_a_number_is_a_number_like_any_other() -> None:
    program = funcattr.export(lambda x: x / x, torch.zeros(2, 3), dynamic_batch=True)
    assert program.module()(torch.zeros(4, 3)).isnan().all()


def test_a_program_that_differs_is_refused() -> None:
    calls = iter(range(10))
    with pytest.raises(funcattr.FuncattrError, match="gives other numbers than the function"):
        funcattr.export(lambda x: x + next(calls), torch.ones(2, 3))
