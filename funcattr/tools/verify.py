"""What holds for a model and an input: a table of findings, each computed twice by ways that share nothing."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import TorchDispatchMode, pytree
from ..agreement import same_numbers
from ..attribution.attribute import pulled
from ..attribution.contribution import contribution
from ..attribution.example_dims import ExampleDims
from ..attribution.forward import PassOptions, forward, starting_cotangent
from ..attribution.question import Layer, Model, Question, ask
from ..attribution.relevance_check import LEAST, MOST
from ..attribution.rule_table import Line, RuleTable, rule_table
from ..attribution.separate_copies import check_separate
from ..attribution.targets import Target, cotangent_of
from ..copies import copied
from ..errors import FuncattrError
from ..model.functional import FunctionalModel
from ..rulebook.actions import GRADIENT, UNLISTED
from ..rulebook.rulebook import Rulebook
from ..rules.composites import Rules, rulebook_of
from ..tape.site_leaf import leaf_of
from ..text_tables import table
from .belongings import Belongings

_NO_CHANGE = Rulebook({"relu": GRADIENT}, name="no change")
"""Has rules that are the ordinary adjoints, so that the recorder does the work."""
_ONE_OF_EACH_SPACE = ("epsilon_plus", "attnlrp", "deep_lift")
_SEPARATE, _ARRIVES = "examples of a batch do not see each other", "relevance arrives"
_EAGER_CHECKS = (_SEPARATE, _ARRIVES)
"""Findings that methods raise or warn of where values can be looked at."""
_REFUSALS = (FuncattrError, ValueError, TypeError, RuntimeError)


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: The claim.
        holds: Whether it is true; None if it could not be told, or need not hold.
        detail: What was found.
    """

    what: str
    holds: bool | None
    detail: str = ""


class Verification(tuple[Finding, ...]):
    """What was found for a model and an input; prints as a table.

    Attributes:
        rules: For each rulebook that was asked, the calls with their rules, which print as a table too.
    """

    rules: Mapping[str, RuleTable]

    def __new__(cls, findings: Iterable[Finding], rules: Mapping[str, RuleTable]) -> "Verification":
        made = super().__new__(cls, findings)
        made.rules = rules
        return made

    @property
    def holds(self) -> bool:
        """Whether nothing that was claimed is false."""
        return all(finding.holds is not False for finding in self)

    def __repr__(self) -> str:
        words = {True: "yes", False: "NO", None: "?"}
        return table(("holds", "what", "detail"), [(words[f.holds], f.what, f.detail) for f in self])


def verify(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    rules: Rules = "epsilon_plus",
    layer: Layer | None = None,
    compiled: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Verification:
    """What holds for this model and this input, and what does not: look here first when a map looks wrong.

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.
        rules: The rulebook that is asked about, as in `lrp`.
        compiled: Whether to compile the gradient too (seconds), and compare.

    Returns:
        A `Verification`, whose findings are: the copy that runs gives the model's own output, on record too; the
        recorded gradient is autograd's; nothing of the user's was written; examples do not see each other; every call
        has a rule, in other rulebooks too; how much relevance arrives; what compiled code would not say. `holds` is
        true if none of them is false; `rules` has each call with its rule.

    Raises:
        ValueError, TypeError: If the question itself is wrong, as in `gradient`.

    Example:
        >>> import torch, funcattr
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False))
        >>> found = funcattr.verify(model, torch.ones(1, 2), target=1)
        >>> found.holds, [finding.what for finding in found][0]
        (True, "the copy gives the model's own output")
    """
    question = ask(
        "verify", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    book = rulebook_of("verify", rules, unlisted="raise", space="relevance")
    users = Belongings(model, x, args, kwargs)
    rules_of: dict[str, RuleTable] = {}
    findings = [
        _found("the copy gives the model's own output", partial(_own_output, model, question)),
        _found("a forward pass on record gives it too", partial(_recorded_output, question, _NO_CHANGE)),
        _found(f"and so it does with the rules {book.name!r}", partial(_recorded_output, question, book)),
        _found("the recorded gradient is autograd's", partial(_recorded_gradient, question)),
        _found(_SEPARATE, partial(_separate, question)),
        _found("every call has a rule", partial(_rules, question, book, rules_of)),
        _found("so it has in other rulebooks", partial(_other_rules, question, book, rules_of)),
        _found(_ARRIVES, partial(_arrives, question, book)),
    ]
    findings.append(_found("compiled code would say as much", partial(_compiled_says, question, book, findings)))
    if compiled:
        findings.append(_found("compiled code gives the same gradient", partial(_compiled, model, question)))
    findings.append(_found("nothing of yours was written", partial(_untouched, users)))
    return Verification(findings, rules_of)


Answer = tuple[bool | None, str]


def _found(what: str, check: Callable[[], Answer]) -> Finding:
    try:
        with torch.random.fork_rng():  # the user's draws are not moved on
            return Finding(what, *check())
    except _REFUSALS as error:
        return Finding(what, False, " ".join(line.strip() for line in str(error).splitlines()))


def _own_output(model: Model, question: Question) -> Answer:
    if isinstance(model, FunctionalModel) or not isinstance(model, nn.Module):
        return True, "it runs as it stands"
    try:
        twin = copy.deepcopy(model)  # the model itself might write into what it holds
    except Exception as error:
        return None, f"the model cannot be copied to run by itself ({type(error).__name__})"
    with torch.no_grad():
        models: tuple[Any, ...] = (twin, question.model)
        values = [_drawn_alike(lambda m=m: question.explained(m, copied(question.x))) for m in models]
    return _same(*values)


def _recorded_output(question: Question, book: Rulebook) -> Answer:
    with torch.no_grad():
        plain = _drawn_alike(question.outputs)
        recorded = _drawn_alike(lambda: forward(question, PassOptions(book), strict=False).output)
    return _same(plain, recorded)


def _recorded_gradient(question: Question) -> Answer:
    by_torch = _drawn_alike(lambda: _by_autograd(question) if question.layer is None else pulled(question).cotangent)
    by_record = _drawn_alike(lambda: pulled(question, PassOptions(_NO_CHANGE)).cotangent)
    return _same(by_torch, by_record)


def _by_autograd(question: Question) -> Any:
    x = pytree.tree_map(lambda t: leaf_of(t) if t.is_floating_point() or t.is_complex() else t, question.x)
    leaves, structure = pytree.tree_flatten(x)
    with torch.enable_grad():
        score = question._replace(x=x).scores().sum()
    found = torch.autograd.grad(score, [leaf for leaf in leaves if leaf.requires_grad], allow_unused=True)
    given = iter(found)
    every = [next(given) if leaf.requires_grad else None for leaf in leaves]
    zeros = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(every, leaves, strict=True)]
    return pytree.tree_unflatten(zeros, structure)


def _separate(question: Question) -> Answer:
    if question.model.training:
        return None, "the model is in training mode"
    check_separate(question)
    return True, f"{question.examples} beside changed copies of them"


def _rules(question: Question, book: Rulebook, rules_of: dict[str, RuleTable]) -> Answer:
    rows = rules_of[book.name] = _rule_table(question, book)
    missing = _missing(rows)
    return not missing, f"none for {missing}" if missing else f"{len(rows)} calls"


def _other_rules(question: Question, book: Rulebook, rules_of: dict[str, RuleTable]) -> Answer:
    """Whether a rulebook of each other kind has a rule for every call; nobody asked for them, so none need."""
    told = []
    for name in _ONE_OF_EACH_SPACE:
        other = rulebook_of("verify", name)
        if other.space != book.space:
            rules_of[name] = _rule_table(question, other)
            told.append((name, _missing(rules_of[name])))
    detail = "; ".join(f"{name}: none for {missing}" if missing else f"{name}: all" for name, missing in told)
    return (True if not any(missing for _, missing in told) else None), detail


def _rule_table(question: Question, book: Rulebook) -> RuleTable:
    x, args, kwargs = question.given
    return rule_table(
        question.model, x, rules=book, layer=question.layer, output=question.output, args=args, kwargs=kwargs
    )


def _missing(rows: RuleTable) -> str:
    missing = Counter(row.operation for row in rows if row.rule == repr(UNLISTED))
    return ", ".join(f"{op} ({count})" for op, count in missing.items())


class _Blind(TorchDispatchMode):
    """Runs what comes as it is. While a dispatch mode is active no value is looked at, as in compiled code."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _compiled_says(question: Question, book: Rulebook, findings: list[Finding]) -> Answer:
    """What depends on values that compiled code cannot look at: rules that would be others, and checks."""
    with _Blind():
        blind = _rule_table(question, book)
    others = [
        f"{seen.operation} in {seen.module!r} ({seen.rule}) would be {unseen.operation} ({unseen.rule})"
        for seen, unseen in zip_longest(_rule_table(question, book), blind, fillvalue=Line("", "no call", "", "none"))
        if (seen.module, seen.shape, seen.rule) != (unseen.module, unseen.shape, unseen.rule)
    ]
    silent = [f.what for f in findings if f.what in _EAGER_CHECKS and f.holds is not True]
    if others:
        return False, "; ".join(others)
    return (None, f"not checked there: {'; '.join(silent)}") if silent else (True, "the same rules, and no warning")


def _arrives(question: Question, book: Rulebook) -> Answer:
    options = PassOptions(book, "output")
    passed = forward(question, options)
    start = starting_cotangent(cotangent_of("verify", passed.output, question.target), passed.output, options)
    given = passed.pull(start)
    if book.space == "gradient":
        start, given = start * passed.output, tuple(map(contribution, passed.roots, given))
    began, arrived = _size(start), sum(map(_size, given))
    share = arrived / began if began else float("nan")
    return LEAST <= share <= MOST, f"sum |R| at the root is {share:.3g} of that at the output"


def _compiled(model: Model, question: Question) -> Answer:
    def gradient(x: Any) -> Any:
        return pulled(question._replace(x=x)).cotangent

    run: Any = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    return _same(gradient(question.x), run(question.x))


def _size(value: Tensor) -> float:
    return float(value.detach().abs().sum())


def _same(expected: Any, actual: Any) -> Answer:
    pairs = list(zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True))
    largest = max(float((a - b).detach().abs().max()) if a.shape == b.shape and a.numel() else 0.0 for a, b in pairs)
    return same_numbers(expected, actual), f"largest difference {largest:.2g}"


def _drawn_alike(run: Callable[[], Any]) -> Any:
    """What `run` gives with the random state as it is, which is as it was afterwards."""
    with torch.random.fork_rng():
        return run()


def _untouched(belongings: Belongings) -> Answer:
    changed = list(belongings.changes())
    return (not changed), "; ".join(changed) or f"{len(belongings)} tensors, modules and containers"
