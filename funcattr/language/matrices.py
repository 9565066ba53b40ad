"""Matrices of attributions: a number for each token and each explained score, from one forward and mapped pullbacks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import attention
from ..attribution.forward import PassOptions, forward
from ..attribution.question import ask
from ..methods.paths.quadrature import nodes_and_weights
from ..methods.perturbation.shapley_values import shapley_weights
from ..rulebook.actions import decompose
from ..rulebook.rulebook import Rulebook
from ..rules.composites import rulebook_of
from ..sampling.baselines import distribution
from ..sampling.draws import integers, permutations, uniform
from ..sampling.loops import chunk_of, positive, wide, with_bar
from ..tape.vjp import vjp

EXACT_UP_TO = 10
"""Groups whose Shapley values are computed from all their coalitions."""

IN_CACHE = 2**18
"""Values of an attention's weights, of all rows that are pulled at once on a CPU."""

Embeds = tuple[Tensor, ...]
Run = Callable[..., Tensor]
"""Embeddings of each text, [N, T, D] each -> logits."""
Head = Callable[[Tensor], Tensor]
"""Logits -> the scores of the rows. [N, R]"""
Found = tuple[Tensor, list[Tensor]]
"""Logits [N, ...], and for each text the attributions. [N, R, T]"""

# Many cotangents at once are pulled through products of matrices, of which torch maps the reverse; not so of its fused
# attention.
_APART = {"scaled_dot_product_attention": decompose(attention.scaled_dot_product_attention)}


class Options(NamedTuple):
    """The options of a method, as `explain` was given them."""

    baseline: Any
    steps: int
    samples: int
    seed: int
    chunk_size: int | None
    progress: bool


class Asked(NamedTuple):
    """What is asked about a batch.

    Attributes:
        call: First words of errors.
        run: The model.
        head: The explained numbers of its logits.
        rows: How many numbers, R.
        embeds: Of the tokens.
        baseline: What stands for nothing, shaped as they are.
        options: Of the method.
    """

    call: str
    run: Run
    head: Head
    rows: int
    embeds: Embeds
    baseline: Embeds
    options: Options


def _rules(call: str, name: str | None) -> Rulebook:
    book = Rulebook({}, name="gradient") if name is None else rulebook_of(call, name)
    return book | _APART


def pulled(asked: Asked, embeds: Embeds, rules: Rulebook) -> tuple[Tensor, Callable[[Callable[..., Any]], Any]]:
    """The logits at some embeddings, and what maps a function of the cotangents there over all rows."""
    logits, pull = vjp(asked.run, *embeds, rules=rules)
    with torch.enable_grad():
        _, head_pull, *_ = torch.func.vjp(asked.head, logits.detach())
    return logits.detach(), lambda reduce: _by_rows(asked, logits, lambda g: pull(head_pull(g)[0]), reduce)


def _by_rows(
    asked: Asked, logits: Tensor, pull: Callable[[Tensor], Embeds], reduce: Callable[..., Any]
) -> list[Tensor]:
    """`reduce` of the cotangents of each row, a chunk of rows at a time. For each text [N, R, ...]"""
    examples = len(logits)
    size = max(logits[0].numel(), *(e[0].numel() for e in asked.embeds))
    chunk = chunk_of(asked.call, asked.options.chunk_size, asked.rows, size, examples)
    if asked.options.chunk_size is None and logits.device.type == "cpu":
        # The weights of attention grow with the square of the length, and are to stay in the processor's cache.
        chunk = min(chunk, max(1, IN_CACHE // (examples * max(e.shape[1] for e in asked.embeds) ** 2)))
    ones = torch.eye(asked.rows, dtype=logits.dtype, device=logits.device).unsqueeze(1).expand(-1, examples, -1)
    parts = []
    with torch.no_grad():
        for some in with_bar(asked.call, ones.split(chunk), asked.options.progress):
            one = len(some) == 1
            each = [g.unsqueeze(0) for g in pull(some[0])] if one else torch.vmap(pull)(some)
            parts.append([reduce(number, g).transpose(0, 1) for number, g in enumerate(each)])
    return [torch.cat(part, 1) for part in zip(*parts, strict=True)]


def gradient_norms(asked: Asked) -> Found:
    """The length of each token's gradient, which has no sign."""
    logits, over_rows = pulled(asked, asked.embeds, _rules(asked.call, None))
    return logits, over_rows(lambda _, g: g.norm(dim=-1))


def input_x_gradient(asked: Asked) -> Found:
    """Each token's embedding times its gradient."""
    return relevance(asked, None)


def relevance(asked: Asked, rules: str | None) -> Found:
    """Each token's embedding times its gradient by a rulebook of gradient space."""
    logits, over_rows = pulled(asked, asked.embeds, _rules(asked.call, rules))
    return logits, over_rows(lambda number, g: (asked.embeds[number] * g).sum(-1))


def integrated_gradients(asked: Asked) -> Found:
    """The gradient, integrated along the line from the baseline to the embeddings."""
    alphas, weights = nodes_and_weights(asked.call, "gausslegendre", asked.options.steps, asked.embeds[0])
    return _line_integral(asked, [(asked.baseline, a, w) for a, w in zip(alphas, weights, strict=True)])


def expected_gradients(asked: Asked) -> Found:
    """The gradient at random points of the lines from baselines that are drawn, for each token one."""
    count, seed = positive(asked.call, "samples", asked.options.samples), asked.options.seed
    like = asked.embeds[0].new_empty(0, dtype=wide(asked.embeds[0].dtype))
    numbers = torch.arange(count, device=like.device)
    alphas = uniform(numbers, (), like, seed, stream=-2)
    return _line_integral(asked, [(_drawn(asked, i), a, like.new_tensor(1 / count)) for i, a in zip(numbers, alphas)])


def _drawn(asked: Asked, number: Tensor) -> Embeds:
    rows = asked.options.baseline
    if not isinstance(rows, distribution):
        return asked.baseline
    kept = []
    for text, (embeds, fixed) in enumerate(zip(asked.embeds, asked.baseline, strict=True)):
        index = integers(number.reshape(1), rows.count, (embeds.shape[1],), seed=asked.options.seed, stream=text)[0]
        # Where the baseline is the token itself, the token stays.
        stays = (embeds == fixed).all(-1, keepdim=True)
        kept.append(torch.where(stays, embeds, rows.at(index).to(embeds)))
    return tuple(kept)


def _line_integral(asked: Asked, points: list[tuple[Embeds, Tensor, Tensor]]) -> Found:
    rules = _rules(asked.call, None)
    with torch.no_grad():
        logits = asked.run(*asked.embeds)
    total: list[Tensor] | None = None
    examples, size = len(asked.embeds[0]), max(logits[0].numel(), *(e[0].numel() for e in asked.embeds))
    chunk = chunk_of(asked.call, asked.options.chunk_size, len(points), size, examples * asked.rows)
    quiet = asked._replace(options=asked.options._replace(progress=False))
    chunks = [points[i : i + chunk] for i in range(0, len(points), chunk)]
    for some in with_bar(asked.call, chunks, asked.options.progress):
        starts = [torch.cat(each) for each in zip(*(start for start, _, _ in some), strict=True)]
        way = [x.repeat(len(some), 1, 1) - x0 for x, x0 in zip(asked.embeds, starts, strict=True)]
        alpha = torch.stack([a for _, a, _ in some]).repeat_interleave(examples).reshape(-1, 1, 1)
        at = tuple((x0 + alpha * w).to(x0.dtype) for x0, w in zip(starts, way, strict=True))
        _, over_rows = pulled(quiet, at, rules)
        each = over_rows(lambda number, g, way=way: (way[number] * g).sum(-1).to(wide(g.dtype)))
        weights = torch.stack([w for _, _, w in some])
        part = [torch.einsum("s,s...->...", weights.to(e), e.unflatten(0, (len(some), examples))) for e in each]
        total = part if total is None else [t + p for t, p in zip(total, part, strict=True)]
    assert total is not None
    return logits, [t.to(e.dtype) for t, e in zip(total, asked.embeds, strict=True)]


def deep_lift(asked: Asked) -> Found:
    """The difference to the baseline times DeepLIFT's multipliers; the scores are a part of the model."""

    def scores(*embeds: Tensor) -> Tensor:
        logits = asked.run(*embeds)
        seen.append(logits.detach())
        found = asked.head(logits)
        scored.append(found.detach())
        return found

    seen: list[Tensor] = []
    scored: list[Tensor] = []
    question = ask(asked.call, scores, asked.embeds)
    passed = forward(question, PassOptions(rulebook_of(asked.call, "deep_lift"), baseline=asked.baseline))
    way = [x - x0 for x, x0 in zip(asked.embeds, asked.baseline, strict=True)]
    found = _by_rows(asked, seen[-1], passed.pull, lambda number, g: (way[number] * g).sum(-1))
    _require_sum(asked.call, found, scored[-1] - scored[0], scored)
    return seen[-1], found


def _require_sum(call: str, found: list[Tensor], expected: Tensor, scored: list[Tensor]) -> None:
    """Raise unless DeepLIFT's numbers sum to the difference of the scores: [N, R, T] each, to [N, R].

    Multipliers are differences of values over differences of inputs, of which rounding may leave nothing.
    """
    total = torch.stack([part.sum(2) for part in found]).sum(0)
    size = torch.stack([score.abs().max() for score in scored]).max()
    tolerance = max(0.01, torch.finfo(total.dtype).eps ** 0.5)
    if bool(((total - expected).abs() > tolerance * size).any()):
        raise ValueError(
            f"{call}(method='deep_lift'): the attributions do not sum to the difference of the scores at the prompt "
            "and at its baseline, where some part of the model divides by next to nothing (the norm of an embedding "
            "of zeros). Give another baseline: a token, baseline='...', or a vector."
        )


def by_coalitions(asked: Asked, members: list[list[int]], method: str) -> Found:
    """What each group of the prompt's tokens adds to the scores: ablated alone, or by its Shapley value.

    Args:
        asked: About one example.
        members: The tokens of each group, in the first text.
        method: "occlusion" or "shapley".
    """
    embeds, baseline, count = asked.embeds[0], asked.baseline[0], len(members)
    present, weights = _coalitions(asked, count, method)
    owner = torch.full((embeds.shape[1],), -1, device=embeds.device)
    for number, group in enumerate(members):
        owner[group] = number
    kept = torch.cat([present, present.new_ones(len(present), 1)], 1)[:, owner]  # -1: no group, always there
    size = max(e[0].numel() for e in asked.embeds)
    chunk = chunk_of(asked.call, asked.options.chunk_size, len(kept), size)
    total, logits = None, None
    with torch.no_grad():
        logits = asked.run(*asked.embeds)
        pairs = list(zip(kept.split(chunk), weights.split(chunk), strict=True))
        for some, share in with_bar(asked.call, pairs, asked.options.progress):
            mixed = torch.where(some.unsqueeze(2), embeds, baseline)
            rest = [e.expand(len(some), *e.shape[1:]) for e in asked.embeds[1:]]
            scores = asked.head(asked.run(mixed, *rest))
            scores = scores.to(wide(scores.dtype))
            part = scores.T @ share.to(scores)  # [R, groups]
            total = part if total is None else total + part
    assert total is not None
    found = [e.new_zeros(1, asked.rows, e.shape[1]) for e in asked.embeds]
    # A group's number stands at its first token, so that sums over the group's tokens are it.
    for number, group in enumerate(members):
        found[0][0, :, group[0]] = total[:, number].to(embeds.dtype)
    return logits, found


def _coalitions(asked: Asked, count: int, method: str) -> tuple[Tensor, Tensor]:
    """Which groups are present, and how much the score with them counts for each group. Both [S, groups]"""
    device = asked.embeds[0].device
    if method == "occlusion":
        alone = torch.eye(count, dtype=torch.bool, device=device)
        present = torch.cat([torch.ones_like(alone[:1]), ~alone])
        return present, torch.cat([torch.ones(1, count, device=device), -alone.float()]).double()
    if count <= EXACT_UP_TO:
        bits = torch.arange(count, device=device)
        present = (torch.arange(2**count, device=device).unsqueeze(1) >> bits) % 2 == 1
        return present, shapley_weights(present)
    orders = positive(asked.call, "samples", asked.options.samples)
    order = permutations(torch.arange(orders, device=device), count, seed=asked.options.seed)
    place = order.argsort(1)  # [orders, groups]
    sizes = torch.arange(count + 1, device=device)
    present = place.unsqueeze(1) < sizes.reshape(1, -1, 1)  # [orders, count + 1, groups]
    joins = place.unsqueeze(1) == (sizes - 1).reshape(1, -1, 1)
    leaves = place.unsqueeze(1) == sizes.reshape(1, -1, 1)
    return present.flatten(0, 1), (joins.double() - leaves.double()).flatten(0, 1) / orders


MATRICES: dict[str, Callable[[Asked], Found]] = {
    "gradient": gradient_norms,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
    "expected_gradients": expected_gradients,
    "attnlrp": lambda asked: relevance(asked, "attnlrp"),
    "cp_lrp": lambda asked: relevance(asked, "cp_lrp"),
    "deep_lift": deep_lift,
}
"""Methods that give each token of any text a number."""
COALITIONS = ("occlusion", "shapley")
"""Methods that ask what groups of the prompt's tokens add."""
