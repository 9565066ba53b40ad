"""The rule-driven reverse pass: `torch.func.vjp` with some adjoints replaced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..calls.adjoints import outside_inference_mode
from ..model.functional import functionalize
from ..rules.composites import PLAIN, Rules, rulebook_of
from .plain_gradient import plain_record
from .record import Record, Recording, check_primals, record


def recorded(fn: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record:
    """Run `fn(*primals)` once and keep what the reverse pass to the root needs, on a tape or without one."""
    check_primals(how.call, primals, how.begins)
    if not torch.compiler.is_dynamo_compiling():
        primals = tuple(map(outside_inference_mode, primals))
    found = plain_record(fn, primals, how) if how.is_plain else None
    return record(fn, primals, how) if found is None else found


# After a graph break Dynamo compiles the functions of an eager call one by one; those of a recorder must be left alone.
_recorded_eagerly: Any = torch.compiler.disable(recorded)


def vjp(
    fn: Callable[..., Any], *primals: Tensor, rules: Rules | None = None
) -> tuple[Any, Callable[[Any], tuple[Tensor, ...]]]:
    """Run `fn` and return its output with a function that pulls cotangents back to the inputs, by `rules`.

    With no rules it gives what `torch.func.vjp` does. A rule is `rule(call, cotangent) -> one cotangent for each
    tracked operand` (see `rules.Call`); operations without one keep their ordinary adjoint, unless the rulebook says
    `unlisted="raise"`.

    Args:
        fn: A pure function of tensors: a callable, or a module (which is functionalised).
        primals: Floating-point inputs. Any shapes.
        rules: A `Rulebook`, its name, or a mapping from operation (name or torch function) to rule. None: the plain
            adjoint.

    Returns:
        `(output, pullback)`; `pullback(cotangent of the output)` is a tuple with one cotangent for each primal, and
        may be called many times, also under `vmap`.

    Raises:
        UnsupportedOperationError: If `fn` does something that no rule covers, or that cannot be seen through.
        UntrackedPathError: If the output does not depend on the inputs.

    Example:
        >>> import torch, funcattr
        >>> y, pullback = funcattr.vjp(lambda x: torch.relu(x) * 3, torch.tensor([1.0, -1.0]))
        >>> pullback(torch.ones(2))
        (tensor([3., 0.]),)
    """
    how = Recording("vjp", PLAIN if rules is None else rulebook_of("vjp", rules))
    fn = functionalize(fn) if isinstance(fn, nn.Module) else fn
    if torch.compiler.is_dynamo_compiling() and how.rules.entries:
        raise NotImplementedError(
            "vjp(rules=...): torch.compile cannot trace a ruled pullback. Compile a call of a method, or of "
            "attribute(..., rules=...), or trace with make_fx."
        )
    found = (recorded if torch.compiler.is_dynamo_compiling() else _recorded_eagerly)(fn, primals, how)
    return found.output, lambda cotangent: found.pull(cotangent)
