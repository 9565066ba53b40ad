"""Hints: every public method says its own word for a keyword of another library's, and is else as it was written."""

import importlib
import inspect
import operator
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.hints import ELSEWHERE, HERE, OF_TUNNELS, hints_of

from .test_words import PAGE, listed

METHODS = {
    name: value
    for name, value in vars(funcattr).items()
    if inspect.isfunction(value) and not name.startswith("_") and "target" in inspect.signature(value).parameters
}
every_method = pytest.mark.parametrize("name", METHODS)
MODEL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double().eval()
X = torch.linspace(-1, 1, 32).double().reshape(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("name", "given", "word"),
    [
        ("integrated_gradients", "n_steps", "steps"),
        ("integrated_gradients", "baselines", "baseline"),
        ("integrated_gradients", "internal_batch_size", "chunk_size"),
        ("integrated_gradients", "method", "quadrature"),
        ("integrated_gradients", "additional_forward_args", "args"),
        ("noise_tunnel", "nt_samples", "samples"),
        ("noise_tunnel", "stdevs", "sigma"),
        ("grad_cam", "target_layers", "layer"),
        ("grad_cam", "saliency_layer", "layer"),
        ("grad_cam", "category_id", "target"),
        ("occlusion", "sliding_window_shapes", "window"),
        ("occlusion", "perturbations_per_eval", "chunk_size"),
        ("lime", "n_samples", "samples"),
        ("lrp", "composite", "rules"),
    ],
)
def test_the_names_of_the_peers(name: str, given: str, word: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\({given}=\.\.\.\): no such argument\. Here it is {word}=\.$"):
        getattr(funcattr, name)(MODEL, X, 1, **{given: 3})


@every_method
def test_every_hint_of_every_method_is_raised_before_anything_runs(name: str) -> None:
    method, parameters = METHODS[name], inspect.signature(METHODS[name]).parameters
    tables = (OF_TUNNELS,) if name == "noise_tunnel" else (HERE, OF_TUNNELS)
    expected = {other: word for table in tables for word, names in table.items() for other in names}
    for other, word in expected.items():
        if word in parameters and other not in parameters:
            with pytest.raises(TypeError, match=rf"^{name}\({other}=\.\.\.\): .* {word}=\."):
                method(None, None, **{other: None})
    for other in ELSEWHERE if name != "noise_tunnel" else ():
        with pytest.raises(TypeError, match=rf"^{name}\({other}=\.\.\.\): no such argument\. "):
            method(None, None, **{other: None})


@every_method
def test_no_argument_of_a_method_is_refused_and_every_other_is_pythons_to_refuse(name: str) -> None:
    assert not hints_of(METHODS[name]).keys() & inspect.signature(METHODS[name]).parameters.keys()
    if name != "noise_tunnel":
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'no_such_word'"):
            METHODS[name](MODEL, X, no_such_word=1)


def test_hints_name_words_of_the_page_and_one_word_for_a_name() -> None:
    assert {*HERE, *OF_TUNNELS} <= set(listed(PAGE.read_text()))
    names = [name for table in (HERE, OF_TUNNELS) for names in table.values() for name in names] + list(ELSEWHERE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("hint", ELSEWHERE.values())
def test_what_a_hint_names_is_there(hint: str) -> None:
    for name in re.findall(r"funcattr((?:\.\w+)+)", hint):
        assert callable(operator.attrgetter(name[1:])(funcattr))


@every_method
def test_a_method_keeps_its_name_its_words_and_its_signature(name: str) -> None:
    method: Any = METHODS[name]
    written: Any = method.__wrapped__
    home = importlib.import_module(written.__module__)
    assert getattr(home, name) is written is not method
    assert inspect.signature(method) == inspect.signature(written)
    assert (method.__name__, method.__doc__) == (name, written.__doc__)
    assert pickle.loads(pickle.dumps(method)) is method
    assert inspect.getsource(method) == inspect.getsource(written)


def test_a_tunnel_hands_names_of_its_methods_on() -> None:
    """A user's own method may have any argument; that of a method here gives its own hint."""

    def own(x: Tensor, target: Any, n_steps: int, batch_size: int) -> Tensor:
        return x * n_steps * batch_size

    noise = torch.zeros(1, 1, 1, 4, 4).double()
    torch.testing.assert_close(funcattr.noise_tunnel(own, X, None, noise=noise, n_steps=2, batch_size=3), 6 * X)
    inner: Callable[..., Tensor] = partial(funcattr.integrated_gradients, MODEL)
    with pytest.raises(TypeError, match=r"^integrated_gradients\(n_steps=\.\.\.\): .* steps=\."):
        funcattr.noise_tunnel(inner, X, 1, n_steps=3)


def test_compiled_code_has_no_break_for_hints_and_says_them(fresh_dynamo: None) -> None:
    fm = funcattr.functionalize(MODEL)
    compiled = torch.compile(lambda x: funcattr.grad_cam(fm, x, 1, layer="1"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), funcattr.grad_cam(fm, X, 1, layer="1"))
    wrong: Any = {"n_steps": 3}
    with pytest.raises(Exception, match=r"integrated_gradients\(n_steps=\.\.\.\)"):
        torch.compile(lambda x: funcattr.integrated_gradients(fm, x, 1, **wrong), fullgraph=True, backend="eager")(X)
