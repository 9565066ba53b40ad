"""Two passes of one model, at a baseline and at the input, whose calls are paired one by one."""

import torch
from torch import Tensor

from .._torch import pytree, version
from ..calls.operations import LIKE
from ..calls.recorded_call import RecordedCall
from ..errors import UnsupportedOperationError
from ..torch_state import is_plain_eager
from .tracked import ByIdentity

_UNSET = frozenset(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"])


class Pairing:
    """The calls of a pass at the baseline, in order; then, once `closed`, the partners of those at the input.

    Args:
        caller: First words of errors.
    """

    def __init__(self, caller: str) -> None:
        self.caller, self.closed = caller, False
        self._calls: list[tuple[RecordedCall, tuple[int, ...]]] = []
        self._outputs: tuple[int | None, ...] = ()
        self._same: list[Tensor] = []
        self._unset = ByIdentity[int]()

    def made(self, name: str, out: object) -> None:
        """Note a constant whose values nobody has set, so that they tell nothing until something is written there."""
        if name in _UNSET and isinstance(out, Tensor) and not out.is_inference():
            self._unset[out] = version(out)

    def _is_unset(self, tensor: Tensor) -> bool:
        return self._unset.get(tensor) == version(tensor)

    def meet(self, call: RecordedCall, slots: tuple[int, ...]) -> None:
        """Keep a call of the first pass; give one of the second its partner, as `call.baseline`.

        Passes that do the same number their values alike, so `slots` tell whether the operands come from the same.
        """
        call.compared = True
        if not self.closed:
            self._calls.append((call, slots))
            return
        partner, expected = self._calls.pop() if self._calls else (None, ())
        if partner is None or call.op != partner.op or call.path != partner.path:
            raise self._different(call, f"it calls {call.op} at the input, {partner.op if partner else 'nothing'}")
        if slots != expected or not _alike(call, partner):
            raise self._different(call, f"{call.op} gets other arguments than")
        call.baseline = partner
        self._compare_constants(call, partner)

    def end(self, slots: tuple[int | None, ...]) -> None:
        """A pass is over: the second one has made all the calls of the first, and returns the same values."""
        if not self.closed:
            self._outputs = slots
            self._calls.reverse()
            self.closed = True
        elif self._calls:
            raise self._different(self._calls[-1][0], f"it calls nothing at the input, {self._calls[-1][0].op}")
        elif slots != self._outputs:
            raise UnsupportedOperationError(
                f"{self.caller}: the model does not do the same at the input and at its baseline: another of its "
                "values is the output."
            )

    def valid(self, cotangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The cotangents; NaN if some call got other constants, where that could not be seen at once."""
        if not self._same:
            return cotangents
        return tuple(torch.where(torch.stack(self._same).all(), g, float("nan")) for g in cotangents)

    def _compare_constants(self, call: RecordedCall, partner: RecordedCall) -> None:
        pairs = [(a, b) for a, b in zip(_constants(call), _constants(partner), strict=True) if a is not b]
        if not pairs:
            return
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            raise self._different(call, f"{call.op} gets constants of other shapes at the input than")
        pairs = [(a, b) for a, b in pairs if not (self._is_unset(a) and self._is_unset(b))]
        if not pairs:
            return
        same = torch.stack([(a == b).all() for a, b in pairs]).all()
        if not is_plain_eager():
            self._same.append(same)
        elif not bool(same) and not all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs):  # both NaN
            raise self._different(call, f"{call.op} gets other constants (a mask, an index, a detached value) than")

    def _different(self, call: RecordedCall, what: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            f"{self.caller}: in the module {call.path!r}, the model does not do the same at the input and at its "
            f"baseline: {what} at the baseline. That part depends on the values by a way that no derivative "
            "follows, so there is no multiplier. Choose a baseline that takes the same way, or use another method."
        )


def _alike(call: RecordedCall, partner: RecordedCall) -> bool:
    shapes = [[t.shape for t in c.operands] for c in (call, partner)]
    return (call.op, call.path) == (partner.op, partner.path) and shapes[0] == shapes[1] and _plain(call, partner)


def _plain(call: RecordedCall, partner: RecordedCall) -> bool:
    """Whether the arguments that are no tensors are the same."""
    values = [[v for v in pytree.tree_leaves((c.args, c.kwargs)) if not isinstance(v, Tensor)] for c in (call, partner)]
    return len(values[0]) == len(values[1]) and all(a is b or a == b for a, b in zip(*values, strict=True))


def _constants(call: RecordedCall) -> list[Tensor]:
    if call.op in LIKE:
        return []
    tracked = {id(t) for t in call.operands}
    return [t for t in call.tensors() if id(t) not in tracked]
