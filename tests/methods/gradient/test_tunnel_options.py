"""What of a tunnel's options goes with the examples: said by the option, not by a number that happens to be equal."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import isfunction, signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import noise_tunnel
from funcattr.attribution.few_examples import few_of
from funcattr.methods.gradient.tunnel_options import LIKE_INPUTS, NOISE, WITHOUT_EXAMPLES

ROWS, WIDTH, CLASSES = 4, 5, 3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double().eval()


def images() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, ROWS, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * ROWS, CLASSES)).double().eval()


def rows(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def bits(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2)) > 0.5


IMAGES = rows(ROWS, 3, 6, 6)
STATISTICS = funcattr.bottleneck.feature_statistics(images(), rows(1000, 3, 6, 6, seed=3), layer="0")
FEATURES = torch.arange(3).reshape(3, 1, 1)
OF_THE_PACKAGE: dict[str, tuple[Callable[..., Any], Tensor, dict[str, Any]]] = {
    "coalitions": (
        partial(funcattr.lime, net()),
        rows(8, WIDTH),
        {"regression": "ridge", "penalty": 1.0, "coalitions": bits(8, WIDTH)},
    ),
    "permutations": (
        partial(funcattr.shapley_sampling, net()),
        rows(ROWS, WIDTH),
        {"permutations": torch.stack([torch.arange(WIDTH).roll(i) for i in range(ROWS)])},
    ),
    "masks": (partial(funcattr.rise, images()), IMAGES, {"masks": bits(ROWS, 6, 6).double()}),
    "statistics": (partial(funcattr.iba, images()), IMAGES, {"statistics": STATISTICS, "steps": 2}),
    "rows of a distribution": (
        partial(noise_tunnel, partial(funcattr.integrated_gradients, net()), samples=3, sigma=0.1),
        rows(ROWS, WIDTH),
        {"baseline": funcattr.distribution(rows(ROWS, WIDTH, seed=5))},
    ),
    "one baseline of as many channels": (
        partial(funcattr.integrated_gradients, images()),
        IMAGES[:3],
        {"baseline": rows(3, 6, 6)},
    ),
    "one mask of as many channels": (
        partial(funcattr.feature_ablation, images()),
        IMAGES[:3],
        {"feature_mask": FEATURES},
    ),
    "a baseline of each example": (
        partial(funcattr.deep_lift, net()),
        rows(ROWS, WIDTH),
        {"baseline": rows(ROWS, WIDTH)},
    ),
    "a mask of each example": (
        partial(funcattr.feature_ablation, net()),
        rows(ROWS, WIDTH),
        {"feature_mask": torch.stack([torch.arange(WIDTH).roll(i) for i in range(ROWS)])},
    ),
    "noise of each example": (
        partial(noise_tunnel, partial(funcattr.gradient, net())),
        rows(ROWS, WIDTH),
        {"noise": rows(ROWS, ROWS, WIDTH), "sigma": rows(ROWS, 1).abs()},
    ),
    "noise of a bottleneck": (
        partial(funcattr.iba, images()),
        IMAGES,
        {"statistics": STATISTICS, "steps": ROWS, "samples": 2, "noise": rows(ROWS, 2, ROWS, ROWS, 4, 4)},
    ),
}


@pytest.mark.parametrize(
    ("what", "held"),
    [
        (what, held)
        for what, (_, _, options) in OF_THE_PACKAGE.items()
        for held in ("by the call", "by a partial", "by the method inside")
        if held != "by the call" or "noise" not in options  # which would be the outer tunnel's
    ],
)
@pytest.mark.filterwarnings("ignore")  # few examples for statistics, and few steps
def test_samples_in_one_batch_give_what_they_give_one_by_one(what: str, held: str) -> None:
    method, x, options = OF_THE_PACKAGE[what]
    given: Any = options if held == "by the call" else {}
    if held != "by the call":
        method = partial(method, **options)
    if held == "by the method inside":
        method = partial(noise_tunnel, method, samples=2, sigma=0.01)
    run: Any = partial(noise_tunnel, method, x, 1, samples=3, sigma=0.1, **given)
    torch.testing.assert_close(run(chunk_size=3), run(chunk_size=1))


def test_a_condition_of_as_many_channels_as_examples_is_for_all() -> None:
    x, conditions = IMAGES, [{"1": torch.tensor([1.0, 0.0, 1.0, 0.0])}]

    def method(x: Tensor, target: Any) -> Tensor:
        return funcattr.conditional_relevance(images(), x, target, conditions)[0]

    run: Any = partial(noise_tunnel, method, x, 1, samples=3, sigma=0.1)
    torch.testing.assert_close(run(chunk_size=3), run(chunk_size=1))


def test_under_vmap_nothing_is_repeated_that_has_no_examples() -> None:
    method = partial(noise_tunnel, partial(funcattr.integrated_gradients, net(), steps=3), samples=20, sigma=0.0)
    held = partial(
        method.func, partial(*_parts(method), baseline=funcattr.distribution(rows(ROWS, WIDTH))), **method.keywords
    )
    x = rows(ROWS, WIDTH, seed=7)
    one, several = (
        torch.vmap(lambda t, c=c: noise_tunnel(held, x, t, samples=4, sigma=0.0, chunk_size=c))(torch.tensor([1]))
        for c in (1, 4)
    )
    torch.testing.assert_close(several, one)


def _parts(method: "partial[Any]") -> tuple[Any, ...]:
    inner = method.args[0]
    return (partial(inner.func, *inner.args, **inner.keywords),)


@dataclass
class Scale:
    by: Tensor


def test_of_other_methods_tensors_with_a_row_for_each_example_go_along_and_objects_do_not() -> None:
    seen: list[tuple[int, ...]] = []

    def method(x: Tensor, target: Any, weight: Any, held: Scale, number: Tensor, foil: Any) -> Tensor:
        seen.append((len(x), len(weight["w"]), len(held.by), len(number), len(foil.parts["target"])))
        return x * weight["w"] * held.by.sum()

    given: Any = {"weight": {"w": rows(2, WIDTH)}, "held": Scale(torch.ones(2)), "number": torch.ones(3)}
    noise_tunnel(method, rows(2, WIDTH), samples=3, chunk_size=3, foil=funcattr.contrast([0, 1], 1), **given)
    assert seen[-1] == (6, 6, 2, 3, 6)


@pytest.mark.parametrize(
    "name", ["conditions", "coalitions", "masks", "permutations", "noise", "baseline", "feature_mask"]
)
def test_an_option_of_another_method_that_could_be_either_is_refused(name: str) -> None:
    def method(x: Tensor, target: Any, **options: Any) -> Tensor:
        return x

    value: Any = torch.ones(3, 1) if name in LIKE_INPUTS else torch.ones(3, 6)
    x = rows(3, 2, WIDTH)
    with pytest.raises(
        ValueError, match=rf"^noise_tunnel\({name}=...\): its 3 rows may be one for each of 3 examples, or"
    ):
        noise_tunnel(partial(method, **{name: value}), x, samples=2)
    assert noise_tunnel(partial(method, **{name: value}), x, samples=2, chunk_size=1).shape == x.shape
    if name != "noise":
        assert noise_tunnel(partial(method, **{name: value[:2]}), x, samples=2).shape == x.shape


def test_a_deviation_at_a_site_that_could_be_one_of_each_example_is_refused() -> None:
    inner = partial(noise_tunnel, partial(funcattr.gradient, net()), noise_layer="0", samples=2)
    with pytest.raises(ValueError, match=r"^noise_tunnel\(sigma=...\): its 6 rows may be one for each of 6 examples"):
        noise_tunnel(partial(inner, sigma=torch.full((6,), 0.1)), rows(6, WIDTH), 1, samples=2)


def test_one_tensor_for_inputs_of_several_ranks_is_refused() -> None:
    def method(x: Any, target: Any, baseline: Any) -> Any:
        return x

    x = rows(2, WIDTH), rows(2, 2, WIDTH)
    with pytest.raises(
        ValueError, match=r"^noise_tunnel\(baseline=...\): expected it structured as x, whose inputs have"
    ):
        noise_tunnel(method, x, samples=2, baseline=torch.ones(2, 5))


def test_options_are_laid_out_as_x() -> None:
    front, x = net(), rows(3, WIDTH)

    def model(x: Tensor) -> Tensor:
        return front(x.T).T

    dims: Any = {"x": 1, "output": 1}
    drawn = funcattr.distribution(rows(6, WIDTH, seed=4))
    each, one = rows(3, WIDTH, seed=4), rows(1, WIDTH, seed=4)
    for baseline, laid in ((each, each.T), (one, one.T), (drawn, drawn)):
        for chunk_size in (1, 3):
            run: Any = partial(noise_tunnel, target=1, samples=3, sigma=0.1, chunk_size=chunk_size)
            right = run(partial(funcattr.integrated_gradients, front, steps=4), x, baseline=baseline)
            method = partial(funcattr.integrated_gradients, model, steps=4)
            given = run(method, x.T, example_dims=dims, baseline=laid)
            torch.testing.assert_close(given.T, right)


def test_every_option_with_tensors_is_listed() -> None:
    spaces = (funcattr, funcattr.masks, funcattr.bottleneck, funcattr.metrics)
    functions = {name: f for space in spaces for name, f in vars(space).items() if isfunction(f)}
    asked = {name: signature(f).parameters for name, f in functions.items()}
    own = {"model", "method", "x", "target", "args", "kwargs", "options"}
    options = {
        (name, option): str(parameter.annotation)
        for name, parameters in asked.items()
        if {"model", "method"} & set(parameters) and "x" in parameters
        for option, parameter in parameters.items()
        if option not in own
    }
    tensors = {key for key, kind in options.items() if "Tensor" in kind and "Callable[" not in kind.split("Tensor")[0]}
    listed = LIKE_INPUTS | WITHOUT_EXAMPLES | {"noise"}
    assert {option for _, option in tensors} <= listed <= {option for _, option in options}
    assert {name for name, option in options if option == "noise"} == set(NOISE)


# --- generators -------------------------------------------------------------------------------------------------------

GLOBAL = torch.Generator()


def by_a_global(x: Tensor, target: Any) -> Tensor:
    return funcattr.expected_gradients(net(), x, target, sigma=0.1, generator=GLOBAL)


class Holds:
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = {"mine": generator}

    def __call__(self, x: Tensor, target: Any) -> Tensor:
        return funcattr.expected_gradients(net(), x, target, sigma=0.1, generator=self.generator["mine"])


@pytest.mark.parametrize("held", ["global", "closure", "object", "method", "partial", "closure of a closure"])
def test_the_check_moves_no_generator_on(held: str) -> None:
    mine = GLOBAL if held == "global" else torch.Generator()

    def closure(x: Tensor, target: Any) -> Tensor:
        return funcattr.expected_gradients(net(), x, target, sigma=0.1, generator=mine)

    methods: dict[str, Callable[..., Tensor]] = {
        "global": by_a_global,
        "closure": closure,
        "object": Holds(mine),
        "method": Holds(mine).__call__,
        "partial": partial(funcattr.expected_gradients, net(), sigma=0.1, generator=mine),
        "closure of a closure": lambda x, target: closure(x, target),
    }
    found = []
    for chunk_size in (1, None):
        mine.manual_seed(3)
        found.append(noise_tunnel(methods[held], rows(2, WIDTH), 1, samples=4, chunk_size=chunk_size))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("target", ["a list", "a tensor", "a contrast", "a span"])
def test_a_few_examples_take_theirs_along(target: str) -> None:
    """The check of a tunnel asks about four of many examples, with their targets, inputs and options."""
    classes, seen = [i % CLASSES for i in range(9)], list[tuple[Any, ...]]()
    given: Any = {
        "a list": classes,
        "a tensor": torch.tensor(classes),
        "a contrast": funcattr.contrast(classes, 0),
        "a span": funcattr.span([[c] for c in classes], 0),
    }[target]

    def of(target: Any) -> list[int]:
        if isinstance(target, funcattr.contrast | funcattr.span):
            target = target.parts["target" if isinstance(target, funcattr.contrast) else "tokens"]
        return [int(c) for c in target]

    def method(x: Tensor, target: Any, args: tuple[Tensor, ...], weight: Tensor, code: Tensor) -> Tensor:
        seen.append((len(x), of(target), args[0].flatten().tolist(), weight.tolist(), code.shape))
        return x * weight[:, None] * args[0] * code[0]

    numbers = torch.arange(9.0).double()
    more: dict[str, Any] = {"args": (numbers[:, None],), "weight": numbers, "code": rows(4, WIDTH)}
    found = noise_tunnel(method, rows(9, WIDTH), given, samples=4, sigma=0.1, chunk_size=2, **more)
    few = few_of(9, [rows(9, WIDTH)])
    assert few is not None and few.tolist() != [0, 1, 2, 3]
    for (count, *each, code), times in zip(seen[:3], (1, 1, 3), strict=True):
        expected = few.repeat_interleave(times).tolist()
        assert count == 4 * times and code == (4, WIDTH)
        assert each == [[classes[i] for i in expected], expected, expected]
    one = noise_tunnel(method, rows(9, WIDTH), given, samples=4, sigma=0.1, chunk_size=1, **more)
    torch.testing.assert_close(found, one)
