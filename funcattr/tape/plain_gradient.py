"""The plain gradient without a tape: torch's own derivative, by autograd, and inside of transforms by `torch.func.vjp`.

Autograd is the faster of the two by a third for attention (`tests/benchmarks/shortcuts.py` measures what it saves), and
follows values into other threads. Its result has a derivative of its own where somebody can ask for one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch import AccumulateGrad, is_differentiated, pytree
from ..agreement import same_numbers
from ..calls.adjoints import leaf_of
from ..calls.linear_map import running_in_one_piece
from ..errors import FuncattrError, RunAgainError, UnsupportedOperationError
from ..torch_state import is_plain_eager
from .record import Record, Recording, independent, matching_leaves, meta, record
from .site_leaf import SiteLeaves

_TORCHS = (RuntimeError, AssertionError)
"""What torch raises where it cannot differentiate, or trace, what the model does."""


def plain_record(fn: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record | None:
    """A forward pass whose reverse pass is the plain gradient; None where only the tape can do it.

    That is at a site, where the result may be differentiated, or the model writes into the site's value; and where
    torch cannot differentiate what it runs, such as a write into a value that the derivative needs.
    """
    if how.begins and not how.final:
        return None
    if torch.compiler.is_dynamo_compiling():
        return _by_func_vjp(fn, primals, how.call)
    try:
        found = _by_torch(how.whole or running_in_one_piece(fn), primals, how)
    except RunAgainError:
        return record(fn, primals, how)
    except _TORCHS as error:
        if isinstance(error, FuncattrError | torch.OutOfMemoryError):
            raise
        return _by_torch_or_on_record(fn, primals, how, error)
    return None if found is None else found._replace(pull=partial(_pull_or_record_again, found, fn, primals, how))


def _by_torch(run: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record | None:
    if how.begins:
        return _by_autograd_from_sites(run, primals, how)
    by_autograd = how.final or (is_plain_eager() and not torch.is_inference_mode_enabled())
    return _by_autograd(run, primals, how) if by_autograd else _by_func_vjp(run, primals, how.call)


def _by_torch_or_on_record(
    fn: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording, error: Exception
) -> Record:
    """What failed with `error`, without a mode that sees every function, or else on record."""
    try:
        found = _by_torch(fn, primals, how)
        return record(fn, primals, how) if found is None else found
    except FuncattrError:
        raise
    except _TORCHS:
        pass
    try:
        return record(fn, primals, how)
    except FuncattrError as unseen:
        raise unseen from error
    except _TORCHS:  # the model's own
        raise error from None


def _pull_or_record_again(
    found: Record,
    fn: Callable[..., Any],
    primals: tuple[Tensor, ...],
    how: Recording,
    cotangent: Any,
    release: bool = False,
    **options: Any,
) -> tuple[Tensor, ...]:
    try:
        return found.pull(cotangent, release=release, **options)
    except RuntimeError as error:
        if isinstance(error, FuncattrError | torch.OutOfMemoryError):
            raise
        try:
            again = record(fn, primals, how)
        except FuncattrError as unseen:
            raise unseen from error
        if is_plain_eager() and not same_numbers(found.output, again.output):
            raise UnsupportedOperationError(
                f"{how.call}: torch cannot differentiate the model ({str(error).splitlines()[0]}), and a second pass, "
                "on record, gave another output: it draws at random, or keeps a state. Write that part out of place."
            ) from error
        return again.pull(cotangent, release=release, **options)


def _by_autograd(run: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record:
    final = how.final or not torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [leaf_of(p) if final or not p.requires_grad else p.view_as(p) for p in primals]
        output = run(*(x.clone() for x in inputs))
    given = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    if final or not _depends_on_others(given, inputs):
        return _pulled_by_autograd(how.call, output, inputs, primals)
    return _pulled_by_autograd(how.call, output, inputs, primals, keeps=True)._replace(output=output)


def _depends_on_others(outputs: list[Tensor], leaves: list[Tensor]) -> bool:
    """Whether autograd would find more leaves behind the outputs than these, by which a derivative could be asked for.

    Such as an input that requires a gradient, and what a function holds.
    """
    own = set(map(id, leaves))
    pending: list[Any] = [t.grad_fn for t in outputs]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, AccumulateGrad):
            if id(node.variable) not in own:
                return True
        else:
            pending += [before for before, _ in node.next_functions]
    return any(t.is_leaf and t.requires_grad and id(t) not in own for t in outputs)


def _by_autograd_from_sites(run: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record | None:
    mode = SiteLeaves(how.begins, how.call)
    with torch.enable_grad(), mode:
        output = run(*(p.clone() for p in primals))
    for site in how.begins:
        mode.require(f"{how.call}(layer={site!r})", (site,), how.sites)
    if mode.is_bypassed(output):
        return None
    ends, values = [mode.ends[site] for site in how.begins], tuple([mode.values[site] for site in how.begins])
    return _pulled_by_autograd(how.call, output, ends, values, how.begins)


def _pulled_by_autograd(
    call: str,
    output: Any,
    inputs: list[Tensor],
    roots: tuple[Tensor, ...],
    begins: tuple[str, ...] = (),
    keeps: bool = False,
) -> Record:
    """The record of a pass by autograd; `keeps` if somebody can ask for a derivative of the result."""
    leaves, spec = pytree.tree_flatten(output)
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        raise independent(call, begins)
    leaves_meta = [meta(leaf) for leaf in leaves]

    def pull(cotangent: Any, release: bool = False, **options: Any) -> tuple[Tensor, ...]:
        each = matching_leaves(call, cotangent, leaves_meta, spec)
        pairs = [(y, g) for y, g in zip(leaves, each, strict=True) if isinstance(y, Tensor) and y.requires_grad]
        outputs, given = zip(*pairs, strict=True)
        again = torch.is_grad_enabled() and (keeps or any(g.requires_grad for g in given))
        found = torch.autograd.grad(
            outputs, inputs, given, retain_graph=again or not release, create_graph=again, allow_unused=True
        )
        for site, g in zip(begins, found, strict=False):
            if g is None:
                raise independent(call, (site,))
        if all(g is None for g in found):  # it depends on some tensor of the model's alone
            raise independent(call)
        return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(roots, found, strict=True))

    return Record(pytree.tree_map_only(Tensor, torch.detach, output), roots, pull)


def _by_func_vjp(run: Callable[..., Any], primals: tuple[Tensor, ...], call: str) -> Record:
    def checked(*inputs: Tensor) -> Any:
        # Copies, so that a model which writes into its input reaches neither a leaf nor the user's tensor.
        output = run(*(x.clone() for x in inputs))
        # Dynamo cannot trace the question, and has no need: it is asked when the model runs eagerly.
        if not torch.compiler.is_dynamo_compiling() and not any(map(is_differentiated, pytree.tree_leaves(output))):
            raise independent(call)
        return output

    found: Any = torch.func.vjp(checked, *primals)
    output, adjoint = found
    leaves, spec = pytree.tree_flatten(output)
    leaves_meta = [meta(leaf) for leaf in leaves]

    def pull(cotangent: Any, release: bool = False, **options: Any) -> tuple[Tensor, ...]:
        matching_leaves(call, cotangent, leaves_meta, spec)
        return adjoint(cotangent, retain_graph=not release)

    return Record(output, primals, pull)
