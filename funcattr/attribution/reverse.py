"""The reverse pass of a question: the target becomes a cotangent of the output, which is pulled back to the root."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..errors import warn
from ..rulebook.rulebook import Rulebook
from ..tape.record import Record
from ..torch_state import derivative_is_final
from .built_targets import is_data, tensors_of
from .forward import PassOptions, forward, starting_cotangent
from .question import Question
from .relevance_check import RelevanceCheck
from .targets import cotangent_of


class Attribution(NamedTuple):
    """The result of a reverse pass.

    Attributes:
        root: The inputs (with their structure), or the value at the site; with several sites, by site.
        cotangent: The pulled-back cotangent, structured and shaped as `root`.
        output: The tensor of the model's output that was explained. [N, ...]
        baseline: The root's value at the baseline, where one was given; structured as `root`.
    """

    root: Any
    cotangent: Any
    output: Tensor
    baseline: Any = None


def reverse_pass(question: Question, options: PassOptions) -> Attribution:
    """Run the model and pull the target back, outside of compiled code."""
    if question.layers and (options.rules.entries or options.conditions is not None or options.baseline is not None):
        return _one_by_one(question, options)
    x, baseline = question.x, options.baseline
    through: Any = question.target if baseline is not None and callable(question.target) else None
    # What a function of the output holds, by which a derivative could be asked for, shows in its cotangent later.
    final = is_final(question if through or is_data(question.target) else question._replace(target=None))
    passed = forward(question, options, through=through, final=final)
    target = cotangent_of(question.call, passed.output, None if through else question.target)
    _warn(question.call, options.rules, passed)
    cotangent = starting_cotangent(target, passed.output, options)
    check = RelevanceCheck(question, options, passed.steps, cotangent)
    masks = () if options.conditions is None else options.conditions.masks.values()
    asked = torch.is_grad_enabled()
    # Of what the passes, the conditions and the cotangent hold; what rules hold shows as the walk comes to them.
    final = derivative_is_final(passed.output, cotangent, *(passed.baseline or ()), *masks)
    with torch.set_grad_enabled(asked and not final):
        cotangents = passed.pull(cotangent, release=True, conditions=options.conditions, asked=asked)
    check.compare(cotangents)
    if question.begins:
        root, pulled, before = (_by_site(question, v) for v in (passed.roots, cotangents, passed.baseline))
        return Attribution(root, pulled, passed.output, before)
    pulled = pytree.tree_unflatten(list(cotangents), pytree.tree_structure(x))
    return Attribution(x, pulled, passed.output, baseline)


def _by_site(question: Question, values: tuple[Tensor, ...]) -> Any:
    """The values at the sites, in the order of the sites, with their examples in front; None for none."""
    if not values:
        return None
    given = dict(zip(question.layers, values, strict=True)) if question.layers else values[0]
    return question.at_each(Question.at_layer, given)


def _one_by_one(question: Question, options: PassOptions) -> Attribution:
    """A pass for each site: what a rule does with a call may depend on which of its operands depend on the root."""
    each = question.at_each(lambda one: reverse_pass(one, options))
    output = each[question.layers[-1]].output
    root, pulled, before = ({site: found[part] for site, found in each.items()} for part in (0, 1, 3))
    return Attribution(root, pulled, output, None if options.baseline is None else before)


def is_final(question: Question) -> bool:
    """Whether nobody can ask for a derivative of the result, as far as that can be seen before the model runs."""
    model = question.model
    structure = model.structure
    if not isinstance(structure.model, nn.Module) or structure.edits or torch.is_inference_mode_enabled():
        return False  # functions may hold tensors of their own
    given = (question.x, question.args, question.kwargs, dict(model.shifts), dict(model.bound))
    if not is_data(question.target):
        return False
    leaves = [*pytree.tree_leaves(given), *tensors_of(question.target)]
    seen = all(isinstance(leaf, Tensor | bool | int | float | str | None) for leaf in leaves)
    return seen and derivative_is_final(*leaves)


def _warn(call: str, rules: Rulebook, passed: Record) -> None:
    if torch.compiler.is_dynamo_compiling():
        return
    if rules.expects and passed.activations and not passed.activations & set(rules.expects):
        warn(
            f"{call}: the model has no {' or '.join(rules.expects)}, only {', '.join(sorted(passed.activations))}; "
            f"the {rules.name} rule changes nothing, the result is the plain gradient."
        )
