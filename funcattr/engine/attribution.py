"""What every reverse-pass method does: run the model once, seed the output with the target, pull back to the root."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._dynamo import nonstrict_trace

from .conditions import Conditions
from .errors import AliasedWriteError, UnknownSiteError, UnsupportedOperationError, UntrackedPathError
from .functional import FunctionalModel, Structure, functionalize, functionalize_once
from .levels import derivative_is_final
from .passes import Options, Seed, call_arguments, forward, warn_if_training, weighted
from .rulebook import Rulebook
from .targets import Target, pick_output, pointing
from .targets import seed as seed_of
from .vjp import Record

Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...], dict[str, Tensor])
Model = Callable[..., Any] | nn.Module | FunctionalModel
PLAIN = Rulebook(name="gradient")


class Attribution(NamedTuple):
    """The result of a reverse pass.

    Attributes:
        root: The inputs (with their structure), or the value at the site.
        cotangent: The pulled-back cotangent, structured and shaped as `root`.
        output: The tensor of the model's output that was explained. [N, ...]
        reference: The root's value at the reference, where one was given; structured as `root`.
    """

    root: Any
    cotangent: Any
    output: Tensor
    reference: Any = None


class WithDelta(NamedTuple):
    """Attributions, and by how much they miss completeness.

    Attributes:
        attributions: As the method returns them without the delta.
        delta: sum(attributions) - (f(x) - f(baseline)) for each example (and sample). [N] or [N * samples]
    """

    attributions: Any
    delta: Tensor


class _Nothing:
    """Stands for None in the arguments of a traced call, which takes tensors, numbers, strings and constants."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Nothing)

    def __hash__(self) -> int:
        return 0


pytree.register_constant(_Nothing)
_NOTHING = _Nothing()


def attribute(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    rules: Rulebook = PLAIN,
    layer: str | None = None,
    seed: Seed | None = None,
    conditions: Conditions | None = None,
    reference: Any = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    call: str = "attribute",
) -> Attribution:
    """One forward pass and one ruled reverse pass, from the target to the inputs or to the site `layer`.

    Every method of the gradient family is this with a rulebook; with a rulebook of your own it is a method of your own,
    which can be mapped, compiled and differentiated like the others.

    Args:
        model: A module, a `FunctionalModel` or a callable. It is called as `model(*x, *args, **kwargs)`.
        x: Input [N, ...], a tuple of them, or a dict of them that go by keyword.
        target: What is explained; as in `gradient`.
        rules: The rulebook; the default is the plain gradient. For compiled code, make it outside of the region.
        layer: Site that is the root. Nothing before it is tracked.
        seed: "one" or "logit": start from the relevance 1 of the target, or from its output value, whichever space the
            rulebook works in. None: from the target's cotangent as it is.
        conditions: Sites where only part of the cotangent goes on (see `conditional_relevance`).
        reference: Inputs structured and shaped as x, at which the model runs before; rules then find the same call
            there as `call.reference`.
        output: Key, index or attribute of the explained tensor, for models that return several.
        args: More positional inputs of the model, constants.
        kwargs: More keyword inputs of the model, constants.
        call: Name of the method, the first words of its errors.

    Returns:
        `Attribution(root, cotangent, output)`: the inputs or the site's value, the cotangent there (structured and
        shaped alike), and the explained output [N, ...].

    Raises:
        ValueError: If a shape, class, device or site is not as documented.
        TypeError: If the input is not floating point, or the model returns no floating-point tensor.
        UnsupportedOperationError: If the rulebook has no rule for an operation, or one cannot be seen through.
        UntrackedPathError: If the output does not depend on the root.

    Example:
        >>> import torch, funcattr
        >>> smooth = funcattr.Rulebook({"relu": lambda call, p: p * torch.sigmoid(10 * call.operands[0])})
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> funcattr.attribute(model, torch.ones(1, 3), 0, rules=smooth).cotangent.shape
        torch.Size([1, 3])
    """
    options = Options(rules, layer, output, seed, conditions, reference)
    if not torch.compiler.is_dynamo_compiling():
        once = reference is None and layer is None  # else the model may run twice
        fm = functionalize_once(model) if once else functionalize(model)
        return _attribute_eagerly(call, fm, x, target, options, args, dict(kwargs or {}))
    if not isinstance(model, nn.Module | FunctionalModel) or _is_traced_callable(model):
        if rules.entries or layer is not None or conditions is not None:
            raise TypeError(
                f"{call}(model=...): inside torch.compile, a plain callable hides operations from the rules. "
                "Build functionalize(callable) outside of the compiled function and pass that."
            )
        return _attribute(call, functionalize(model), x, target, options, args, dict(kwargs or {}))
    return _compiled_attribute(call, model, x, target, options, args, dict(kwargs or {}))


def _is_traced_callable(model: nn.Module | FunctionalModel) -> bool:
    """Whether a plain callable was functionalised inside the compiled region."""
    if not isinstance(model, FunctionalModel):
        return False
    return model.structure.traced and not isinstance(model.structure.model, nn.Module)


def _compiled_attribute(
    call: str,
    model: nn.Module | FunctionalModel,
    x: Any,
    target: Target,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Attribution:
    """The same, as one node of Dynamo's graph that AOTAutograd traces through.

    Dynamo does not show every torch function to a torch function mode (not F.pad, F.hardswish, x.T, ... on torch
    2.13), so a recorder that it traces would miss operations; run for real on traced tensors, it sees them all.
    """
    fm = model if isinstance(model, FunctionalModel) else FunctionalModel(Structure(model))
    tensors, structure = fm.tensors(), fm.structure.model if fm.structure.traced else fm.structure
    given = pytree.tree_map(_encode, (options, x, args, kwargs, fm.shifts))
    aim: Any = target
    if isinstance(target, pointing):
        aim = {"pointing": target.target}  # its class may be a tensor, so it enters as data
    elif callable(target):
        if options.reference is not None:
            raise TypeError(
                f"{call}(target=<function>): with a reference, a function of the output is a part of the model, which "
                "cannot enter compiled code from here. Write it into the model, or give a class."
            )
        # A closure cannot enter the node: it gets the output of a first one, and makes the cotangent for a second.
        aim = seed_of(call, _result(_traced_output(call, structure, tensors, given)), target)
    return Attribution(*_result(_traced(call, structure, tensors, given, pytree.tree_map(_encode, aim))))


def _encode(value: Any) -> Any:
    return _NOTHING if value is None else value


def _decoded(given: Any) -> Any:
    def is_nothing(value: Any) -> bool:
        return isinstance(value, _Nothing)

    return pytree.tree_map(lambda value: None if is_nothing(value) else value, given, is_leaf=is_nothing)


def _rebuilt(structure: Any, tensors: dict[str, Tensor], shifts: dict[str, Tensor]) -> FunctionalModel:
    fm = functionalize(structure) if isinstance(structure, nn.Module) else FunctionalModel(structure)
    return FunctionalModel(fm.structure, tensors).shifted(shifts)


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
    return {type(error).__name__: {str(error): torch.zeros(())}}


@nonstrict_trace
def _traced(call: str, structure: Any, tensors: dict[str, Tensor], given: Any, target: Any) -> Any:
    options, x, args, kwargs, shifts = _decoded(given)
    target = pointing(target["pointing"]) if isinstance(target, dict) else _decoded(target)
    try:
        found = _attribute(call, _rebuilt(structure, tensors, shifts), x, target, options, args, kwargs)
        return {"result": tuple(part for part in found if part is not None)}
    except tuple(_ERRORS.values()) as error:
        return _as_result(error)


@nonstrict_trace
def _traced_output(call: str, structure: Any, tensors: dict[str, Tensor], given: Any) -> Any:
    options, x, args, kwargs, shifts = _decoded(given)
    positional, keyword = call_arguments(x, args, kwargs)
    try:
        return {
            "result": pick_output(call, _rebuilt(structure, tensors, shifts)(*positional, **keyword), options.output)
        }
    except tuple(_ERRORS.values()) as error:
        return _as_result(error)


def _attribute(
    call: str,
    model: FunctionalModel,
    x: Any,
    target: Target,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Attribution:
    through = target if options.reference is not None and callable(target) else None
    final = _is_final(model, (x, args, kwargs, target))
    passed = forward(call, model, x, options, args, kwargs, through=through, final=final)
    _warn(call, model, options.rules, passed)
    cotangent = weighted(seed_of(call, passed.output, None if through else target), passed.output, options)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not derivative_is_final(passed.output, cotangent)):
        cotangents = passed.pull(cotangent, release=True, conditions=options.conditions)
    if options.layer is not None:
        return Attribution(passed.roots[0], cotangents[0], passed.output, next(iter(passed.reference), None))
    pulled = pytree.tree_unflatten(list(cotangents), pytree.tree_structure(x))
    return Attribution(x, pulled, passed.output, options.reference)


def _is_final(model: FunctionalModel, given: Any) -> bool:
    """Whether nobody can ask for a derivative of the result, as far as that can be seen before the model runs."""
    structure = model.structure
    if not isinstance(structure.model, nn.Module) or structure.edits or torch.is_inference_mode_enabled():
        return False  # functions may hold tensors of their own
    leaves = pytree.tree_leaves((given, dict(model.shifts), dict(model.bound)))
    seen = all(isinstance(leaf, Tensor | bool | int | float | str | None) for leaf in leaves)
    return seen and derivative_is_final(*leaves)


# As `record_eagerly`: what an eager call does is not to be compiled piece by piece.
_attribute_eagerly: Any = torch.compiler.disable(_attribute)


def _warn(call: str, model: FunctionalModel, rules: Rulebook, passed: Record) -> None:
    if torch.compiler.is_dynamo_compiling():
        return
    warn_if_training(call, model, stacklevel=5)
    if rules.expects and passed.activations and not passed.activations & set(rules.expects):
        warnings.warn(
            f"{call}: the model has no {' or '.join(rules.expects)}, only {', '.join(sorted(passed.activations))}; "
            f"the {rules.name} rule changes nothing, the result is the plain gradient.",
            stacklevel=5,
        )
