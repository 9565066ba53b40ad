"""Captum's rules of relevance propagation, which a user gives to a module as its attribute `rule`."""

from typing import Any

import funcattr
from funcattr import rules


class PropagationRule:
    """The base of Captum's rules."""

    def entry(self, path: str) -> Any:
        """The row of a rulebook that gives the module at `path` this rule."""
        raise NotImplementedError(
            f"{type(self).__name__}: expected EpsilonRule, GammaRule, Alpha1_Beta0_Rule or IdentityRule."
        )


class EpsilonRule(PropagationRule):
    """Relevance in proportion to the contributions, with a stabiliser."""

    def __init__(self, epsilon: float = 1e-9) -> None:
        self.STABILITY_FACTOR = epsilon

    def entry(self, path: str) -> Any:
        """The row of a rulebook."""
        return rules.Entry("linear_map", rules.epsilon(eps=self.STABILITY_FACTOR), path=path)


class GammaRule(PropagationRule):
    """Relevance along weights of which the positive ones count more: W + gamma W+."""

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False) -> None:
        self.gamma, self.set_bias_to_zero = gamma, set_bias_to_zero

    def entry(self, path: str) -> Any:
        """The row of a rulebook."""
        return rules.Entry("linear_map", _favoured(gamma=self.gamma, without_bias=self.set_bias_to_zero), path=path)


class Alpha1_Beta0_Rule(PropagationRule):  # noqa: N801
    """Relevance along the positive weights only."""

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        self.set_bias_to_zero = set_bias_to_zero

    def entry(self, path: str) -> Any:
        """The row of a rulebook."""
        return rules.Entry("linear_map", _favoured(gamma=float("inf"), without_bias=self.set_bias_to_zero), path=path)


class IdentityRule(EpsilonRule):
    """Relevance as it comes: what a module with as many outputs as inputs does to it is nothing."""

    def entry(self, path: str) -> Any:
        """The row of a rulebook."""
        return rules.Entry("*", rules.pass_through, path=path)


@rules.linear_rule(needs_output=False)
def _favoured(
    layer: Any, *, eps: float = 1e-9, gamma: float = 0.25, without_bias: bool = False
) -> tuple[rules.Share, ...]:
    """The gamma rule as Captum has it: other weights, the same bias."""
    above = layer.weight.clamp(min=0)
    terms = ((layer.x, above if gamma == float("inf") else layer.weight + gamma * above),)
    bias = None if without_bias else layer.bias
    return (rules.Share(terms, rules.total(layer, terms, bias), bias),)


def rulebook_for(model: Any) -> funcattr.Rulebook:
    """Captum's default, the epsilon rule with 1e-9, and the rules that modules have as their attribute `rule`."""
    rows = []
    for name, module in model.named_modules():
        rule = getattr(module, "rule", None)
        if rule is None:
            continue
        if not isinstance(rule, PropagationRule):
            raise TypeError(f"LRP(model=...): expected a PropagationRule as the rule of {name!r}, got {rule!r}.")
        rows.append(rule.entry(name))
    return rules.epsilon_everywhere(eps=1e-9) | tuple(rows)
