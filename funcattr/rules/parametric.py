"""A rule with options, as a value: applied, or set to other options, by a call."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..calls import declarations
from ..calls.call import Call
from ..calls.declarations import giving_own, operands_only, taking_proportional
from ..calls.inplace import plus
from ..calls.linear_map import LinearMap
from ..calls.proportional import Proportional, Relevance, multiplied
from ..torch_state import is_constant
from .real_parts import RealParts
from .shares import Share, distribute, leaks_of

Leaks = dict[str, Any]
"""Where relevance went that no operand got: name of the reason -> amount."""


_DECLARATIONS: tuple[tuple[Callable[..., bool], Callable[..., Any]], ...] = (
    (lambda rule: not declarations.declared(rule).operands, declarations.output_only),
    (lambda rule: not declarations.declared(rule).output, declarations.operands_only),
    (lambda rule: declarations.declared(rule).gives_own, declarations.giving_own),
    (declarations.is_row_by_row, declarations.row_by_row),
)


class Parametric:
    """A rule with keyword options.

    `rule(call, relevance)` applies it; `rule(eps=1e-3)` is the same rule with other options, checked at once. Two rules
    are equal if their formulas and options are, so that a rulebook made anew does not compile anew.
    """

    def __init__(
        self,
        formula: Callable[..., Any],
        options: Mapping[str, Any],
        check: Callable[..., Mapping[str, Any]] | None = None,
        leaks: Callable[..., Leaks] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.formula, self.options, self.check, self._leaks = formula, dict(options), check, leaks
        self._defaults = self.options if defaults is None else defaults
        self.__doc__ = formula.__doc__
        if type(self).__call__ is not Parametric.__call__:
            return  # what a class of one's own does with the formula, nobody knows
        for declared, declare in _DECLARATIONS:
            if declared(formula):
                declare(self)
        in_proportion = declarations.proportional_form(formula)
        if in_proportion is not None:
            declarations.taking_proportional(functools.partial(in_proportion, **self.options))(self)

    def __call__(self, *applied_to: Any, **options: Any) -> Any:
        if applied_to:
            return self.formula(*applied_to, **{**self.options, **options})
        unknown = options.keys() - self.options.keys()
        if unknown:
            known = ", ".join(self.options) or "none"
            raise TypeError(f"{self.formula.__name__}({min(unknown)}=...): no such option. Options: {known}.")
        options = {**self.options, **options}
        if self.check is not None:
            options.update(self.check(**options) or {})
        return Parametric(self.formula, options, self.check, self._leaks, self._defaults)

    def leaks(self, call: Call, relevance: Any) -> Leaks | None:
        """Where the relevance goes that no operand gets; None where the rule cannot tell."""
        return None if self._leaks is None else self._leaks(call, relevance, **self.options)

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self.options.items() if value != self._defaults[name])
        options = ", ".join(changed)
        return f"{self.formula.__name__}({options})" if options else self.formula.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parametric) and (self.formula, self.options) == (other.formula, other.options)

    def __hash__(self) -> int:
        return hash((self.formula, tuple(self.options.items())))

    def __reduce__(self) -> Any:
        return _restored, (self.formula.__module__, self.formula.__name__, self.options)


def number(rule: str, option: str, value: Any) -> Any:
    """An option that a formula takes as a number, and that may be given as a tensor of one value.

    Raises:
        TypeError: If it is a tensor that somebody differentiates or maps over, which a number would not tell.
    """
    if not isinstance(value, Tensor):
        return value
    if not is_constant(value):
        raise TypeError(
            f"{rule}({option}=...): expected a number, got a tensor that requires a derivative or that a transform "
            "wraps. The rule takes it as a constant: give a number, or write a rule of your own, a function of the "
            "tensor."
        )
    return value.item()


def _restored(module: str, name: str, options: dict[str, Any]) -> Parametric:
    plain = getattr(importlib.import_module(module), name)
    return plain if options == plain.options else plain(**options)


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def rule(
    check: Callable[..., Any] | None = None, leaks: Callable[..., Leaks] | None = None
) -> Callable[[Callable[..., Any]], Parametric]:
    """Make a rule with options of `formula(call, relevance, *, options)`.

    Args:
        check: `check(**options)` raises for bad ones, and may return some in another form.
        leaks: `leaks(call, relevance, **options)`: what no operand gets, by reason.
    """
    return lambda formula: Parametric(formula, _defaults(formula), check, leaks)


def linear_rule(
    check: Callable[..., Any] | None = None, *, needs_output: bool = True
) -> Callable[[Callable[..., Any]], Parametric]:
    """Make a rule for linear maps of `split(layer, *, eps, options) -> the shares of z that relevance follows`.

    Where the shares are computed without z, `needs_output` is false, and z is not held for them. A split that is
    declared `row_by_row` says of each row of a product what it would say of that row alone.
    """

    def decorate(split: Callable[..., tuple[Share, ...]]) -> Parametric:
        def formula(call: Call, relevance: Any, *, eps: float, **options: Any) -> Any:
            return multiplied(in_proportion(call, relevance, eps=eps, **options))

        def in_proportion(call: Call, relevance: Relevance, *, eps: float, **options: Any) -> Any:
            layer, eps = LinearMap(call), number(split.__name__, "eps", eps)
            if layer.x.is_complex():
                real = RealParts(call, layer)
                shares = split(real.layer, **options)
                return real.together(multiplied(distribute(real.layer, real.of(multiplied(relevance)), shares, eps)))
            blocks = layer.blocks()
            if len(blocks) == 1:
                x = layer.x
                if isinstance(relevance, Proportional) and relevance.rectified:
                    layer.is_rectified, layer.rectified = True, relevance.x
                relevance, shares = multiplied(relevance), split(layer, **options)
                layer.rectified = None  # nobody asks for it any more
                given = distribute(layer, relevance, shares, eps)
                return given if layer.x is x else multiplied(given)  # in proportion to what the split has put there
            # Each output hands back its relevance on its own, so a large weight is changed and used piece by piece.
            pieces = multiplied(relevance).split([block.weight.shape[0] for block in blocks], -1)
            parts = (distribute(b, r, split(b, **options), eps) for b, r in zip(blocks, pieces, strict=True))
            return functools.reduce(plus, map(multiplied, parts))

        def leaks(call: Call, relevance: Any, *, eps: float, **options: Any) -> Leaks:
            layer = LinearMap(call)
            if layer.x.is_complex():
                real = RealParts(call, layer)
                layer, relevance = real.layer, real.of(relevance)
            return leaks_of(layer, relevance, split(layer, **options), eps)

        if not needs_output:
            operands_only(formula)
        if declarations.is_row_by_row(split):
            declarations.row_by_row(formula)
        taking_proportional(in_proportion)(giving_own(formula))
        formula.__name__, formula.__module__, formula.__doc__ = split.__name__, split.__module__, split.__doc__
        return Parametric(formula, _defaults(split), check, leaks)

    return decorate
