"""A model without its batch norms: each is folded once into the linear layer before it."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import has_hooks, pytree
from ..agreement import same_numbers
from ..attribution.question import call_arguments
from ..calls.adjoints import is_differentiable
from ..calls.operations import CONVOLUTIONS
from ..errors import FuncattrError, UnsupportedOperationError
from ..model.functional import FunctionalModel, Structure, functionalize
from ..model.hand_over import Handed, ReadError
from ..model.module_tree import TreeCopier, parts_of, sited_copy
from ..rulebook.actions import Action
from ..rulebook.rulebook import Entry, Rulebook
from ..tape.recorder import Recorder
from ..tape.rewrites.fold import folded_after
from ..tape.rewrites.functions import Forms
from ..tape.rewrites.resolve import only_source
from ..tape.step import Step

_CONVOLUTIONS = {getattr(nn, f"Conv{'Transpose' * transposed}{n}d"): op for op, (n, transposed) in CONVOLUTIONS.items()}
_LINEAR = (nn.Linear, *_CONVOLUTIONS)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_KEEP = Action("rule", lambda call, cotangent: None)
_WITH_CALLS = Rulebook((Entry("linear_map", _KEEP), Entry("batch_norm", _KEEP)), name="fold_batch_norm")


class _Pair(NamedTuple):
    """A linear layer and the batch norm after it, by name, the layer's tensors for both, and its input's rank."""

    linear: str
    norm: str
    weight: Tensor
    bias: Tensor
    rank: int


def fold_batch_norm(
    model: Callable[..., Any], x: Any, *, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> FunctionalModel:
    """The same function with fewer operations: batch norms in eval mode become part of the linear layers before them.

    w' = s w, b' = s b + t, with s = gamma / sqrt(var + eps), t = beta - s mean

    A batch norm is folded where its input is the output of a linear layer or convolution that nothing else reads, as a
    run on `x` shows; others stay. Every method then saves them, forward and backward, at each call. A model that for
    another input reads such an output in another way is refused when it does.

    Args:
        model: A module in eval mode, or a `FunctionalModel` of one. It is not modified.
        x: Example input [N, ...], a tuple of them, or a dict of them that go by keyword.
        args, kwargs: More inputs of the model.

    Returns:
        A `FunctionalModel` with tensors of its own: what happens to the model's parameters later does not reach it, and
        `bind` refuses those that are folded. A folded batch norm's site has the same value as before; the layer before
        it is no site any more.

    Raises:
        TypeError: If the model is no module.
        ValueError: If there is nothing to fold, or the model has edits.
        FuncattrError: If the result differs from the model's; later, if the model reads a folded layer's output in
            another way than on the example.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 4, 3), BatchNorm2d(4), ReLU(), Flatten(), Linear(16, 3)).eval()
        >>> folded = funcattr.fold_batch_norm(model, torch.rand(1, 1, 4, 4))
        >>> funcattr.guided_backprop(folded, torch.rand(2, 1, 4, 4), target=1).shape, folded.sites
        (torch.Size([2, 1, 4, 4]), ('1', '2', '3', '4'))
    """
    fm = functionalize(model)
    if not isinstance(fm.structure.model, nn.Module):
        raise TypeError("fold_batch_norm(model=...): expected a module, or a FunctionalModel of one.")
    if fm.structure.sharded:
        raise UnsupportedOperationError(
            "fold_batch_norm(model=...): the model's parameters are spread over processes, or kept elsewhere. Fold "
            "before it is sharded, or use it as it is."
        )
    if fm.structure.edits or fm.shifts:
        raise ValueError("fold_batch_norm(model=...): the model has edits. Fold first, and edit the result.")
    snapshot = {name: t.detach().clone() for name, t in {**fm.params, **fm.buffers}.items()}
    fm, inputs = fm.bind(snapshot), call_arguments(x, args, dict(kwargs or {}))
    pairs = {pair.linear: pair for pair in _pairs(fm, *_recorded(fm, inputs))}
    while pairs:
        folded = FunctionalModel(_folded(fm, list(pairs.values())))
        try:
            with torch.no_grad():
                actual = folded(*inputs[0], **inputs[1])
        except ReadError as error:  # a comparison, or a part that depends on nothing: the record does not show it
            del pairs[error.layer]
            continue
        with torch.no_grad():
            expected = fm(*inputs[0], **inputs[1])
        if not same_numbers(expected, actual):
            raise FuncattrError(
                "fold_batch_norm(model=...): the folded model gives other numbers than the model. Look for random "
                "numbers, or control flow that looks at values."
            )
        return folded
    raise ValueError(
        "fold_batch_norm(model=...): found no batch norm in eval mode that alone reads the output of a layer "
        "(nn.Linear, nn.Conv2d, ...). Is the model in training mode? Call model.eval()."
    )


def _recorded(fm: FunctionalModel, inputs: Any) -> tuple[list[Step], Forms, set[int | None]]:
    """The calls that depend on the inputs, the forms of their results, and which of these are outputs of the model."""
    fm, (leaves, spec) = fm.ready(), pytree.tree_flatten(inputs)
    recorder = Recorder(_WITH_CALLS, (), "fold_batch_norm")
    found = [i for i, leaf in enumerate(leaves) if is_differentiable(leaf)]
    for i, tracked in zip(found, recorder.track(tuple(leaves[i] for i in found)), strict=True):
        leaves[i] = tracked
    positional, keyword = pytree.tree_unflatten(leaves, spec)
    with torch.enable_grad(), recorder:
        output = fm(*positional, **keyword)
    output = recorder.finish(output, strict=False)
    forms = Forms(recorder.steps, dict(zip(recorder.root_slots, recorder.roots, strict=True)))
    return recorder.steps, forms, {recorder.slot(leaf) for leaf in pytree.tree_leaves(output)}


def _pairs(fm: FunctionalModel, steps: list[Step], forms: Forms, outputs: set[int | None]) -> list[_Pair]:
    """The batch norms that can be folded, and the tensors of the layers that they go into."""
    calls = Counter(step.path for step in steps)
    readers = Counter(slot for step in steps for slot in step.inputs)
    found = []
    for i, norm in enumerate(steps):
        slot = only_source(steps, i, forms, readers, outputs) if norm.op == "batch_norm" else None
        before = None if slot is None else forms.makers.get(slot)
        if before is None or forms[norm.inputs[0]].dtype != steps[before].outputs[0].dtype:
            continue
        if not _is_alone(fm, steps[before], _LINEAR, calls) or not _is_alone(fm, norm, _NORMS, calls):
            continue
        tensors = folded_after(steps[before], norm)
        if tensors is not None:
            call = steps[before].call
            assert call is not None
            found.append(_Pair(steps[before].path, norm.path, *tensors, rank=call.operands[0].ndim))
    return found


def _is_alone(fm: FunctionalModel, step: Step, kinds: tuple[type, ...], calls: Counter[str]) -> bool:
    """Whether a step is all that a module of torch's own does, in its only call, with tensors that are its own."""
    assert isinstance(fm.structure.model, nn.Module)
    module, prefix = fm.structure.model.get_submodule(step.path), f"{step.path}."
    places = {place: name for place, name in fm.structure.places.items() if place.startswith(prefix)}
    uses = Counter(fm.structure.places.values())
    plain = type(module) in kinds and not has_hooks(module)
    return plain and calls[step.path] == 1 and all(uses[name] == 1 for name in places.values())


def _folded(fm: FunctionalModel, pairs: list[_Pair]) -> Structure:
    root: Any = fm.structure.model
    tensors = fm.tensors()
    copies = {id(t): tensors[name] for name, t in {**fm.structure.params, **fm.structure.buffers}.items()}
    parts = sited_copy(parts_of(root), TreeCopier(lambda tensor: tensor, copies))
    modules = {part.name: part.module for part in parts}
    for pair in pairs:
        linear, norm = modules[pair.linear], modules[pair.norm]
        linear.__class__ = _handing_over(type(linear))
        vars(linear)["_parameters"].update(folded_weight=pair.weight, folded_bias=pair.bias)
        vars(linear).update(folded_name=pair.linear, folded_rank=pair.rank)
        norm.__class__ = _handed_over(type(norm))
        vars(norm)["folded_name"] = pair.linear
    found = Structure(parts[0].module)
    hidden = {pair.linear for pair in pairs}
    found.sites = tuple(name for name in found.sites if name not in hidden)
    owners = {*hidden, *(pair.norm for pair in pairs)}
    found.fixed = frozenset(name for name in found.places if name.rpartition(".")[0] in owners)
    return found


@cache
def _handing_over(kind: Any) -> type[nn.Module]:
    """A class of linear layers that compute their batch norm too, and are no sites."""

    def forward(self: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or input.ndim != self.folded_rank:
            return kind.forward(self, input, *args, **kwargs)
        tensors = input, self.folded_weight, self.folded_bias
        if kind is nn.Linear:
            return Handed(nn.functional.linear(*tensors), self.folded_name)
        op = _CONVOLUTIONS[kind]
        options = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        if CONVOLUTIONS[op][1]:
            options["output_padding"] = self.output_padding
        return Handed(getattr(nn.functional, op)(*tensors, **options), self.folded_name)

    return type(kind.__name__, (kind,), {"forward": forward, "is_site": False})


@cache
def _handed_over(kind: Any) -> type[nn.Module]:
    """A class of batch norms that pass on the output that their folded layer hands over."""

    def forward(self: Any, input: Any) -> Tensor:
        if not isinstance(input, Handed):
            return kind.forward(self, input)
        if input.layer != self.folded_name:
            raise ReadError(input.layer)
        return input.value

    return type(kind.__name__, (kind,), {"forward": forward})
