"""The bridge into `torch.compile`: a whole method, forward and reverse pass, is one node of Dynamo's graph.

Dynamo does not show every torch function to a torch function mode (not F.pad, F.hardswish, x.T, ... on torch 2.13), so
a recorder that it traces would miss operations; run for real on traced tensors, by AOTAutograd, it sees them all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import nonstrict_trace, pytree
from ..errors import AliasedWriteError, UnknownSiteError, UnsupportedOperationError, UntrackedPathError
from ..model.functional import FunctionalModel, as_functional
from .built_targets import as_data, is_data, of_data, of_outputs
from .forward import PassOptions
from .question import Question
from .reverse import reverse_pass
from .targets import cotangent_of


class _Nothing:
    """Stands for None in the arguments of a traced call, which takes tensors, numbers, strings and constants."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Nothing)

    def __hash__(self) -> int:
        return 0


pytree.register_constant(_Nothing)
_NOTHING = _Nothing()


class Work:
    """What another method does in one node: `function(question, options, more) -> a tree of tensors`; a constant."""

    def __init__(self, function: Callable[[Question, PassOptions, Any], Any]) -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


pytree.register_constant(Work)
_REVERSE_PASS = Work(lambda question, options, more: tuple(p for p in reverse_pass(question, options) if p is not None))


def compiled_pass(question: Question, options: PassOptions) -> tuple[Any, ...]:
    """A reverse pass inside of compiled code, as the parts of an `Attribution`."""
    return in_one_node(_REVERSE_PASS, question, options, ())


def in_one_node(work: Work, question: Question, options: PassOptions, more: Any) -> Any:
    """What `work` makes of a question inside of compiled code; `more` is a tree of tensors, numbers and strings."""
    call, fm, target = question.call, question.model, question.target
    if fm.structure.traced and fm.structure.edits:
        raise NotImplementedError(
            f"{call}(model=...): torch.compile cannot take the edits of a model that was edited inside of the compiled "
            f"function (of {', '.join(map(repr, fm.structure.edits))}). Make edit(model, ...) outside of it."
        )
    tensors, structure = fm.tensors(), fm.structure.model if fm.structure.traced else fm.structure
    named = (question.layer, question.layers, question.output, question.layout)
    given = pytree.tree_map(_encode, (options, question.x, named, question.args, question.kwargs, fm.shifts))
    aim: Any = target
    if isinstance(target, of_outputs):
        raise TypeError(
            f"{call}(target=of_outputs(...)): what it notes of the outputs cannot leave compiled code. Write the "
            "function into the model."
        )
    if is_data(target):
        aim = as_data(target)  # its classes may be tensors, so it enters as data
    elif callable(target):
        if options.baseline is not None:
            raise TypeError(
                f"{call}(target=<function>): with a baseline, a function of the output is a part of the model, which "
                "cannot enter compiled code from here. Write it into the model, or give a class."
            )
        # A closure cannot enter the node: it gets the output of a first one, and makes the cotangent for a second.
        aim = cotangent_of(call, _result(_traced_output(call, structure, tensors, given)), target)
    aim, more = pytree.tree_map(_encode, (aim, more))
    return _result(_traced_work(work, call, structure, tensors, given, aim, more))


def _encode(value: Any) -> Any:
    return _NOTHING if value is None else value


def _decoded(given: Any) -> Any:
    def is_nothing(value: Any) -> bool:
        return isinstance(value, _Nothing)

    return pytree.tree_map(lambda value: None if is_nothing(value) else value, given, is_leaf=is_nothing)


def _rebuilt(call: str, structure: Any, tensors: dict[str, Tensor], given: Any) -> tuple[Question, PassOptions]:
    options, x, (layer, layers, output, layout), args, kwargs, shifts = _decoded(given)
    fm = as_functional(structure) if isinstance(structure, nn.Module) else FunctionalModel(structure)
    model = FunctionalModel(fm.structure, tensors).shifted(shifts)
    return Question(call, model, x, None, layer, output, args, kwargs, layout, False, layers), options


_ERRORS = {
    kind.__name__: kind
    for kind in (
        ValueError,
        TypeError,
        UnknownSiteError,
        UnsupportedOperationError,
        UntrackedPathError,
        AliasedWriteError,
    )
}


def _result(found: dict[str, Any]) -> Any:
    for name, kind in _ERRORS.items():
        if name in found:
            raise kind(*found[name])
    return found["result"]


def _as_result(error: Exception) -> dict[str, Any]:
    """An error as a node's result, in the keys: Dynamo drops exceptions there, and takes only tensors as values."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return {kind: {str(error): torch.zeros(())}}


@nonstrict_trace
def _traced_work(
    work: Work, call: str, structure: Any, tensors: dict[str, Tensor], given: Any, target: Any, more: Any
) -> Any:
    target = of_data(_decoded(target))
    try:
        question, options = _rebuilt(call, structure, tensors, given)
        return {"result": work.function(question._replace(target=target), options, _decoded(more))}
    except tuple(_ERRORS.values()) as error:
        return _as_result(error)


@nonstrict_trace
def _traced_output(call: str, structure: Any, tensors: dict[str, Tensor], given: Any) -> Any:
    try:
        question, _ = _rebuilt(call, structure, tensors, given)
        return {"result": question.outputs()}
    except tuple(_ERRORS.values()) as error:
        return _as_result(error)
