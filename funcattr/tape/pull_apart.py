"""A function in the place of a call, recorded when the pullback of that call runs, and forgotten at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..calls.recorded_call import RecordedCall
from .pairing import Pairing
from .walk import walk


def pull_apart(
    recorder: Callable[..., Any],
    caller: str,
    call: RecordedCall,
    module: type,
    run: Callable[..., Tensor],
    operands: tuple[Tensor, ...],
    at_baseline: tuple[Tensor, ...] | None,
    g: Tensor,
) -> tuple[Tensor, ...]:
    """The cotangents that the rulebook gives of operands, at which `run` gives what has the cotangent g.

    Args:
        recorder: Makes a recorder, of a `pairing` if there is one.
        caller: First words of errors.
        call: The call that `run` stands for, or is a part of.
        module: The class of the module that made it.
        run: A function of the operands.
        operands: Stand for the tracked operands of `call`.
        at_baseline: The same at the baseline, if the pass is compared with one there.
        g: Cotangent of `run(*operands)`.
    """
    pairing = None if at_baseline is None else Pairing(caller)
    found: Any = None
    for given in (operands,) if at_baseline is None else (at_baseline, operands):
        made = recorder(pairing=pairing)
        made.modules.append((call.path, module))
        tracked = made.track(given, call.origins)
        with torch.enable_grad(), made:
            out = run(*tracked)
        found = (made, made.slot(made.finish(out, strict=False)), out.dtype)
    made, slot, dtype = found
    cotangents = walk(made.steps, {slot: g.to(dtype)}, release=True)
    roots = zip(made.root_slots, made.roots, strict=True)
    return tuple([cotangents[slot] if slot in cotangents else torch.zeros_like(root) for slot, root in roots])
