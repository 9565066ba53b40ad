"""What `functionalize` cannot see through is refused by name, never skipped."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import functionalize

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def twice(x: Tensor) -> Tensor:
    return x * 2


scripted = torch.jit.script(twice)
compiled = torch.compile(twice, backend="eager")


class CallsGlobal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scripted(x)


class CallsCompiled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return compiled(x)


class CallsInComprehension(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([scripted(v) for v in x])


class CompiledForward(nn.Module):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class CompiledHelper(nn.Module):
    @torch.compile(backend="eager")
    def helper(self, x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x)


class Holds(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def closing_over(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Closes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Closes()


OPAQUE: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(nn.Linear(3, 3)), "it is a RecursiveScriptModule"),
    "traced": (lambda: torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3)), "it is a TopLevelTracedModule"),
    "compiled": (lambda: torch.compile(nn.Linear(3, 3), backend="eager"), "it is a OptimizedModule"),
    "holds scripted": (lambda: Holds(scripted), "its 'function' is a ScriptFunction"),
    "holds compiled": (lambda: Holds(compiled), "its 'function' is a function"),
    "calls a global": (CallsGlobal, "its 'scripted' is a ScriptFunction"),
    "calls compiled": (CallsCompiled, "its 'compiled' is a function"),
    "calls in a comprehension": (CallsInComprehension, "its 'scripted' is a ScriptFunction"),
    "closes over": (lambda: closing_over(scripted), "its 'function' is a ScriptFunction"),
    "compiled forward": (CompiledForward, "its 'forward' is a function"),
    "compiled helper": (CompiledHelper, "its 'helper' is a function"),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_an_opaque_submodule_is_refused_with_its_path(name: str) -> None:
    make, what = OPAQUE[name]
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), make()))
    message = re.escape(f"functionalize(model=...): cannot see through '1.1': {what}. Pass the eager module")
    with pytest.raises(funcattr.UnsupportedOperationError, match=message):
        functionalize(model)
    with pytest.raises(funcattr.UnsupportedOperationError, match=message):
        funcattr.gradient(model, torch.ones(1, 3), 0)


@pytest.mark.parametrize("name", sorted(set(OPAQUE) - {"compiled"}))  # torch.compile(model) itself is unwrapped
def test_an_opaque_model_is_refused(name: str) -> None:
    make, what = OPAQUE[name]
    with pytest.raises(funcattr.UnsupportedOperationError, match=re.escape(f"see through 'the model': {what}")):
        functionalize(make())


@pytest.mark.parametrize("function", [scripted, compiled])
def test_an_opaque_function_is_refused(function: Any) -> None:
    with pytest.raises(funcattr.UnsupportedOperationError, match="cannot see through 'the model': it is a"):
        functionalize(function)


def test_an_opaque_submodule_of_a_compiled_model_is_refused() -> None:
    model = torch.compile(nn.Sequential(torch.jit.script(nn.Linear(3, 3))), backend="eager")
    with pytest.raises(funcattr.UnsupportedOperationError, match="cannot see through '0'"):
        functionalize(model)


def test_what_the_forward_does_not_name_is_not_asked() -> None:
    model = Holds(twice)
    torch.testing.assert_close(functionalize(model)(torch.ones(2)), torch.full((2,), 2.0))


class UsesAnAttribute(nn.Module):
    """Whose attribute has the name of a compiled function of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.compiled = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.compiled(x)


def test_an_attribute_of_a_compiled_globals_name_is_refused_by_that_name() -> None:
    """Which of the two the code means is not looked for: a needless refusal is loud, and has a way out."""
    with pytest.raises(
        funcattr.UnsupportedOperationError, match=r"cannot see through 'the model': its 'compiled' is a"
    ):
        funcattr.functionalize(UsesAnAttribute())
