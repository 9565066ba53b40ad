"""From a language model, its tokenizer and a prompt to a matrix of attributions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..attribution.built_targets import Measure
from ..model.wrappers import unwrapped
from ..sampling.baselines import distribution
from ..sampling.draws import Generator, seed_from
from ..sampling.loops import positive, wide
from .explanation import Explanation, grouped, summed
from .matrices import COALITIONS, MATRICES, Asked, Options, by_coalitions
from .reader import Reader, Roles, check_ids, check_length, check_tokenizer, roles_of
from .texts import Per, Tokens, continued, of_ids, one_token, prompt_text, special_ids, tokenized, units_of

Method = Literal[
    "attnlrp",
    "cp_lrp",
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "expected_gradients",
    "deep_lift",
    "occlusion",
    "shapley",
]
Rows = Literal["token", "word", "sentence", "whole"]


def explain(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    continuation: str | Sequence[int | str] | None = None,
    generate: int | None = None,
    target: Any = None,
    contrast: Any = None,
    method: Method = "attnlrp",
    per: Per = "token",
    rows: Rows = "token",
    of: Measure = "logit",
    baseline: Any = 0.0,
    steps: int = 50,
    samples: int = 50,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """What each part of a prompt counts for each part of what a language model says, in one matrix.

    A[r, c] = the attribution of the score t_r to the embedding of token c, summed over its features;
    t_r = sum of y[p, v] over the tokens v of row r, y the logits or log-probabilities where v is said

    The model runs once, on embeddings, and a mapped reverse pass gives all rows, a chunk of them at a time. It is
    checked that the embeddings give what the model gives for the tokens themselves, and that it looks at nothing ahead.

    Args:
        model: A transformers model, or one like it: `get_input_embeddings()`, `config`, `can_generate()`. A decoder or
            an encoder-decoder says what comes next; other models fill the masks of the prompt, or classify it.
        tokenizer: Its tokenizer.
        prompt: A text; or a chat, a list of messages {"role": ..., "content": ...}, by the tokenizer's template.
        continuation: What is explained: a text that goes on from the prompt (of an encoder-decoder: the output), or the
            numbers of its tokens; of a model with masks, the tokens that fill them. None: what the model says next.
        generate: In place of it: how many tokens the model is to say (fewer, where it ends before).
        target: Of a classifier: a class, its number or label, or a list of them. None: the model's.
        contrast: Why that and not this: a token, or a list with one for each explained token; of a classifier a class.
            Scores are then differences.
        method: "attnlrp", "cp_lrp", "gradient" (its length for each token, without a sign), "input_x_gradient",
            "integrated_gradients", "expected_gradients", "deep_lift", "occlusion" or "shapley". The last two leave out
            groups of the prompt's tokens, by `per`; what is said after it stays, and counts 0.
        per: What gets a number: a "token", a "word", or a "sentence", whose tokens' numbers are summed.
        rows: What is explained at once: each "token", "word" or "sentence" of what is said, or the "whole": one score
            and one reverse pass for each.
        of: "logit" or "log_prob".
        baseline: What stands for nothing, in place of every token but special ones: a number, or a vector [D], in
            place of the embedding; a text, whose one token's embedding it is ("[MASK]"); for "expected_gradients" also
            `distribution(rows)` of embeddings [B, D], of which each token draws one.
        steps: Points of "integrated_gradients".
        samples: Draws of "expected_gradients", and orders of "shapley" beyond 10 groups (up to 10 it is exact).
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Rows (of the last two methods: groups) that run at once; by default 16, fewer for long texts.
        progress: Whether to show a progress bar.
        kwargs: More keyword inputs of the model's call, constants: tensors have a row for each prompt. No cache.

    Returns:
        An `Explanation`: columns, rows, attributions [rows, columns], scores, what the model would have said.

    Raises:
        ValueError: If the prompt is empty or too long, its tokens are not the model's, the continuation is tokenised
            otherwise where it is joined, or an option is not as documented above.
        TypeError: If the model, the tokenizer or an option is of another kind.
        UnsupportedOperationError: If the embeddings do not give what the tokens do, or a rule is missing.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        >>> from funcattr import language
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "cow": 2, "moo": 3}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=4, pad_token_id=0, **sizes)).eval()
        >>> language.explain(model, tokenizer, "a cow", continuation=" moo").attributions.shape  # [rows, columns]
        torch.Size([1, 2])

    References:
        Achtibat et al., 2024, arXiv:2402.05602 (attnlrp); Yin & Neubig, 2022, arXiv:2202.10419 (contrast).
    """
    options = Options(baseline, steps, samples, seed_from("explain", generator), chunk_size, progress)
    given = _Given("explain", model, tokenizer, target, contrast, method, per, rows, of, options, dict(kwargs or {}))
    return _explained(given, [prompt], [continuation], generate)[0]


def explain_all(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[Mapping[str, Any]]],
    *,
    continuations: Sequence[str | Sequence[int | str]] | None = None,
    generate: int | None = None,
    target: Any = None,
    contrast: Any = None,
    method: Method = "attnlrp",
    per: Per = "token",
    rows: Rows = "token",
    of: Measure = "logit",
    baseline: Any = 0.0,
    steps: int = 50,
    samples: int = 50,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> list[Explanation]:
    """The explanations of several prompts, of any lengths, in one padded batch.

    Each is what `explain` gives for its prompt alone. That is checked; of a model that padding disturbs, the prompts
    run one by one, and so they do for "occlusion" and "shapley".

    Args:
        model, tokenizer, generate, target, contrast, method, per, rows, of: As in `explain`. A list of `target` or
            `contrast` is for each of the prompts.
        baseline, steps, samples, generator, chunk_size, progress, kwargs: As in `explain`.
        prompts: Texts or chats.
        continuations: One for each prompt.

    Returns:
        An `Explanation` for each prompt.

    Raises:
        ValueError, TypeError, UnsupportedOperationError: As in `explain`; and if there are no prompts, or not as many
            continuations.

    Example:
        >>> from funcattr import language
        >>> language.explain_all(None, None, [])
        Traceback (most recent call last):
        ValueError: explain_all(prompts=...): expected a list of at least one prompt.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("explain_all(prompts=...): expected a list of at least one prompt.")
    if continuations is not None and (isinstance(continuations, str) or len(continuations) != len(prompts)):
        raise ValueError(
            f"explain_all(continuations=...): expected a list of {len(prompts)}, one for each prompt, got "
            f"{1 if isinstance(continuations, str) else len(continuations)}."
        )
    options = Options(baseline, steps, samples, seed_from("explain_all", generator), chunk_size, progress)
    given = _Given(
        "explain_all", model, tokenizer, target, contrast, method, per, rows, of, options, dict(kwargs or {})
    )
    return _explained(given, list(prompts), list(continuations or [None] * len(prompts)), generate)


class _Given(NamedTuple):
    """What a call was given, beside the prompts."""

    call: str
    model: Any
    tokenizer: Any
    target: Any
    contrast: Any
    method: str
    per: Per
    rows: str
    of: Measure
    options: Options
    kwargs: dict[str, Any]


class _Item(NamedTuple):
    """A prompt, what is said after it (None: what the model says), and the texts that the model reads."""

    prompt: Tokens
    said: Tokens | None
    texts: tuple[Tokens, ...]
    inputs: tuple[list[int], ...]


class _Scores(NamedTuple):
    """The explained scores of one example: sums over tokens, each at a position.

    Attributes:
        positions, tokens, foils: Of each explained token; of a classifier the position is 0. [S]
        groups: The tokens of each row.
        texts: Of the rows.
        named: From what can be said, as numbers, to texts.
    """

    positions: list[int]
    tokens: list[int]
    foils: list[int] | None
    groups: list[list[int]]
    texts: list[str]
    named: Callable[[list[int]], list[str]]


def _explained(given: _Given, prompts: list[Any], continuations: list[Any], generate: int | None) -> list[Explanation]:
    given = given._replace(model=unwrapped(given.model))
    call, model, tokenizer = given.call, given.model, given.tokenizer
    if given.method not in (*MATRICES, *COALITIONS):
        known = ", ".join(map(repr, (*MATRICES, *COALITIONS)))
        raise ValueError(f"{call}(method={given.method!r}): expected one of {known}.")
    if given.rows not in ("token", "word", "sentence", "whole"):
        raise ValueError(f"{call}(rows={given.rows!r}): expected 'token', 'word', 'sentence' or 'whole'.")
    if given.of not in ("logit", "log_prob"):
        raise ValueError(f"{call}(of={given.of!r}): expected 'logit' or 'log_prob'.")
    if isinstance(given.options.baseline, distribution) and given.method != "expected_gradients":
        raise ValueError(f"{call}(baseline=distribution(...)): it is for method='expected_gradients'.")
    roles = roles_of(call, model)
    check_tokenizer(call, model, tokenizer)
    if generate is not None:
        positive(call, "generate", generate)
        if any(c is not None for c in continuations):
            raise ValueError(f"{call}(generate={generate}, continuation=...): expected one of them.")
    if given.target is not None and roles.decodes:
        raise ValueError(f"{call}(target=...): it is for classifiers. Give what the model says: continuation=.")
    if generate is not None and not roles.decodes:
        raise ValueError(f"{call}(generate={generate}): the model says nothing after a text.")
    each = [given._replace(kwargs=_row(given, i, len(prompts))) for i in range(len(prompts))]
    items = [_item(g, roles, p, c, generate) for g, p, c in zip(each, prompts, continuations, strict=True)]
    fills = [None if roles.decodes else c for c in continuations]
    if given.method in COALITIONS:
        return [_by_groups(g, roles, item, fill) for g, item, fill in zip(each, items, fills, strict=True)]
    found = _together(given, roles, items, fills)
    if found is not None:
        return found
    alone = [_together(g, roles, [item], [fill]) for g, item, fill in zip(each, items, fills, strict=True)]
    return [one[0] for one in alone if one is not None]


def _row(given: _Given, example: int, count: int) -> dict[str, Any]:
    """The keyword inputs of one prompt."""
    found = dict(given.kwargs)
    for name, value in given.kwargs.items():
        if isinstance(value, Tensor) and value.ndim > 0:
            if value.shape[0] != count:
                raise ValueError(
                    f"{given.call}(kwargs={{{name!r}: ...}}): expected a row for each of {count} prompts, got shape "
                    f"{list(value.shape)}."
                )
            found[name] = value[example : example + 1]
    return found


def _item(given: _Given, roles: Roles, prompt: Any, continuation: Any, generate: int | None) -> _Item:
    call, model, tokenizer = given.call, given.model, given.tokenizer
    text, special = prompt_text(call, tokenizer, prompt)
    read = tokenized(tokenizer, text, special)
    if not read.ids:
        raise ValueError(f"{call}(prompt={text!r}): expected a text of at least one token.")
    if not roles.decodes:
        check_length(call, model, tokenizer, len(read.ids))
        return _Item(read, None, (read,), (read.ids,))
    said: Tokens | None = None
    if generate is not None:
        said = of_ids(tokenizer, _generated(given, roles, read.ids, generate))
    elif continuation is not None:
        said = _said(given, roles, read, continuation, special)
    before = [] if said is None else said.ids[:-1]
    if roles.encoder:
        start = _start(call, model)
        name = str(tokenizer.convert_ids_to_tokens([start])[0])
        rest = Tokens([], [], [], "") if said is None else said.part(0, len(before))
        places = None if rest.places is None else [None, *rest.places]
        decoder = Tokens([start, *rest.ids], [name, *rest.texts], places, rest.text)
        texts, inputs = (read, decoder), (read.ids, decoder.ids)
    else:
        texts = (read,) if said is None or not before else (read, said.part(0, len(before)))
        inputs = ([*read.ids, *before],)
    for ids in inputs:
        check_length(call, model, tokenizer, len(ids))
    return _Item(read, said, texts, inputs)


def _said(given: _Given, roles: Roles, prompt: Tokens, continuation: Any, special: bool) -> Tokens:
    call, tokenizer = given.call, given.tokenizer
    if isinstance(continuation, str):
        if not continuation:
            raise ValueError(f"{call}(continuation=''): expected at least one token.")
        if not roles.encoder:
            return continued(call, tokenizer, prompt, continuation, special)
        return tokenized(tokenizer, continuation, target=True)
    ids = continuation.tolist() if isinstance(continuation, Tensor) else list(continuation)
    if not ids or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise TypeError(f"{call}(continuation=...): expected a text, or a list of at least one token's number.")
    check_ids(call, "continuation", given.model.get_input_embeddings(), ids)
    return of_ids(tokenizer, ids)


def _start(call: str, model: Any) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    raise ValueError(f"{call}(model=...): its configuration has no decoder_start_token_id, with which it begins.")


def _generated(given: _Given, roles: Roles, ids: list[int], count: int) -> list[int]:
    call, model, tokenizer = given.call, given.model, given.tokenizer
    if not callable(getattr(model, "generate", None)):
        raise TypeError(f"{call}(generate={count}): the model has no generate(). Give the continuation.")
    check_length(call, model, tokenizer, len(ids) if roles.encoder else len(ids) + count - 1)
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    tokens = torch.tensor([ids], device=device)
    check_ids(call, "tokenizer", model.get_input_embeddings(), ids)
    pad = getattr(tokenizer, "pad_token_id", None)
    more = {} if pad is None else {"pad_token_id": pad}
    inputs = {roles.ids[0]: tokens, roles.ids[0].replace("input_ids", "attention_mask"): torch.ones_like(tokens)}
    with torch.no_grad():
        found = model.generate(
            **inputs, **given.kwargs, max_new_tokens=count, do_sample=False, num_beams=1, **more
        )[0].tolist()  # fmt: skip
    before = [_start(call, model)] if roles.encoder else ids
    if found[: len(before)] != before:
        raise ValueError(
            f"{call}(generate={count}): the model's generate() does not go on from what it was given. Give the "
            "continuation."
        )
    said = found[len(before) :]
    if not said:
        raise ValueError(f"{call}(generate={count}): the model said nothing.")
    return said


def _together(given: _Given, roles: Roles, items: list[_Item], fills: list[Any]) -> list[Explanation] | None:
    """The explanations of a batch; None if the model gives other numbers for it than for each alone."""
    call = given.call
    reader = Reader(call, given.model, roles, [item.inputs for item in items], given.kwargs)
    scores = [_scores(given, roles, reader, i, item, fill) for i, (item, fill) in enumerate(zip(items, fills))]
    asked = _asked(given, reader, items, scores)
    logits, found = MATRICES[given.method](asked)
    if not reader.is_right(logits):
        if len(items) > 1:
            return None
        raise reader.wrong()
    return [
        _explanation(given, item, each, logits[i], [f[i] for f in found])
        for i, (item, each) in enumerate(zip(items, scores, strict=True))
    ]


def _by_groups(given: _Given, roles: Roles, item: _Item, fill: Any) -> Explanation:
    reader = Reader(given.call, given.model, roles, [item.inputs], given.kwargs)
    scores = _scores(given, roles, reader, 0, item, fill)
    units = units_of(given.call, item.prompt, given.per)
    special = special_ids(given.tokenizer)
    members = [group for group in units.members if not all(item.prompt.ids[i] in special for i in group)]
    if not members:
        raise ValueError(f"{given.call}(prompt=...): expected a text with something in it that can be left out.")
    logits, found = by_coalitions(_asked(given, reader, [item], [scores]), members, given.method)
    if not reader.is_right(logits):
        raise reader.wrong()
    return _explanation(given, item, scores, logits[0], [f[0] for f in found])


def _scores(given: _Given, roles: Roles, reader: Reader, example: int, item: _Item, fill: Any) -> _Scores:
    call, tokenizer = given.call, given.tokenizer

    def named(numbers: list[int]) -> list[str]:
        return [of_ids(tokenizer, [number]).texts[0] for number in numbers]

    lengths = tuple(map(len, item.inputs))
    if roles.decodes:
        first = 0 if roles.encoder else len(item.prompt.ids) - 1
        if item.said is None:
            token = int(reader.alone(example, lengths)[0, -1].argmax())
            said = of_ids(tokenizer, [token])
        else:
            said = item.said
        places = [first + i for i in range(len(said.ids))]
        foils = _foils(given, len(places))
        if given.rows == "whole":
            return _Scores(places, said.ids, foils, [list(range(len(places)))], [_joined(said)], named)
        units = units_of(call, said, given.rows)
        return _Scores(places, said.ids, foils, units.members, units.texts, named)
    logits = reader.alone(example, lengths)[0]
    if logits.ndim == 1:
        return _classes(given, logits)
    if given.target is not None:
        raise ValueError(f"{call}(target=...): it is for classifiers of whole texts; this model has scores by token.")
    mask = getattr(tokenizer, "mask_token_id", None)
    if logits.shape[-1] < len(tokenizer):
        raise ValueError(
            f"{call}(model=...): it has {logits.shape[-1]} scores for each token, and says no tokens. Explain one by a "
            "method, with target=(position, class)."
        )
    places = [i for i, number in enumerate(item.prompt.ids) if number == mask]
    if not places:
        raise ValueError(
            f"{call}(prompt=...): the model fills masks; expected {getattr(tokenizer, 'mask_token', None)!r} in it."
        )
    if fill is None:
        filled = logits[places].argmax(-1).tolist()
    else:
        fill = [fill] if isinstance(fill, str) else list(fill)
        if len(fill) != len(places):
            raise ValueError(
                f"{call}(continuation=...): expected {len(places)} tokens, one for each mask, got {len(fill)}."
            )
        filled = [one_token(call, tokenizer, value, "continuation") for value in fill]
        check_ids(call, "continuation", given.model.get_input_embeddings(), filled)
    foils = _foils(given, len(places))
    names = named(filled)
    groups = [list(range(len(places)))] if given.rows == "whole" else [[i] for i in range(len(places))]
    texts = [" ".join(names[i] for i in group) for group in groups]
    return _Scores(places, filled, foils, groups, texts, named)


def _joined(said: Tokens) -> str:
    places = [] if said.places is None else [place for place in said.places if place is not None]
    return said.text[places[0][0] : places[-1][1]].strip() if places else " ".join(said.texts)


def _foils(given: _Given, count: int) -> list[int] | None:
    call, contrast = given.call, given.contrast
    if contrast is None:
        return None
    each = list(contrast) if isinstance(contrast, list | tuple) else [contrast] * count
    if len(each) != count:
        raise ValueError(f"{call}(contrast=...): expected one token, or {count}, one for each; got {len(each)}.")
    foils = [one_token(call, given.tokenizer, value, "contrast") for value in each]
    check_ids(call, "contrast", given.model.get_input_embeddings(), foils)
    return foils


def _classes(given: _Given, logits: Tensor) -> _Scores:
    call, names = given.call, dict(getattr(given.model.config, "id2label", None) or {})
    labels = {str(label): int(number) for number, label in names.items()}

    def number_of(value: Any, name: str) -> int:
        number = labels.get(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(logits):
            raise ValueError(
                f"{call}({name}={value!r}): expected a class, 0 to {len(logits) - 1}, or its label, one of "
                f"{', '.join(map(repr, labels))}."
            )
        return number

    asked = given.target if given.target is not None else int(logits.argmax())
    chosen = [number_of(v, "target") for v in (asked if isinstance(asked, list | tuple) else [asked])]
    foils = None
    if given.contrast is not None:
        against = given.contrast if isinstance(given.contrast, list | tuple) else [given.contrast] * len(chosen)
        if len(against) != len(chosen):
            raise ValueError(f"{call}(contrast=...): expected one class, or {len(chosen)}, one for each target.")
        foils = [number_of(v, "contrast") for v in against]

    def named(numbers: list[int]) -> list[str]:
        return [str(names.get(number, number)) for number in numbers]

    return _Scores([0] * len(chosen), chosen, foils, [[i] for i in range(len(chosen))], named(chosen), named)


def _asked(given: _Given, reader: Reader, items: list[_Item], scores: list[_Scores]) -> Asked:
    """The question about a batch: its head picks the explained tokens of each example, padded with ones of weight 0."""
    device, dtype = reader.embeds[0].device, reader.embeds[0].dtype
    most, rows = max(len(s.tokens) for s in scores), max(len(s.groups) for s in scores)

    def padded(values: list[list[int]]) -> Tensor:
        return torch.tensor([v + [0] * (most - len(v)) for v in values], device=device)

    positions, tokens = padded([s.positions for s in scores]), padded([s.tokens for s in scores])
    foils = None if given.contrast is None else padded([s.foils or [] for s in scores])
    share = torch.zeros(len(items), most, rows, device=device, dtype=dtype)
    for example, each in enumerate(scores):
        for row, group in enumerate(each.groups):
            share[example, group, row] = 1
    of_log_prob = given.of == "log_prob"

    def head(logits: Tensor) -> Tensor:
        logits = logits if logits.ndim == 3 else logits.unsqueeze(1)
        times = len(logits) // len(items)
        at = positions.repeat(times, 1).unsqueeze(2).expand(-1, -1, logits.shape[2])
        picked = logits.gather(1, at)
        picked = picked.log_softmax(2) if of_log_prob else picked
        each = picked.gather(2, tokens.repeat(times, 1).unsqueeze(2)).squeeze(2)
        if foils is not None:
            each = each - picked.gather(2, foils.repeat(times, 1).unsqueeze(2)).squeeze(2)
        return torch.einsum("ns,nsr->nr", each, share.repeat(times, 1, 1).to(each.dtype))

    baseline = tuple(_baseline(given, reader, role, items) for role in range(len(reader.embeds)))
    return Asked(given.call, reader.run, head, rows, tuple(reader.embeds), baseline, given.options)


def _baseline(given: _Given, reader: Reader, role: int, items: list[_Item]) -> Tensor:
    """What stands for each token of a text; special tokens and padding stand for themselves. [N, T, D]"""
    call, value, embeds, ids = given.call, given.options.baseline, reader.embeds[role], reader.ids[role]
    if isinstance(value, distribution):
        value.check(call, embeds[0])
        value = 0.0
    if isinstance(value, str):
        number = one_token(call, given.tokenizer, value, "baseline")
        with torch.no_grad():
            value = reader.embedded(role, torch.tensor([[number]], device=ids.device))[0, 0]
    elif isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise TypeError(
            f"{call}(baseline=...): expected a number or a vector in place of embeddings, or a token's text, got "
            f"{type(value).__name__}."
        )
    if isinstance(value, Tensor) and value.shape not in ((), embeds.shape[2:]):
        raise ValueError(
            f"{call}(baseline=...): expected a vector of the embeddings' size {embeds.shape[2]}, got shape "
            f"{list(value.shape)}."
        )
    special = torch.tensor(sorted(special_ids(given.tokenizer)), device=ids.device, dtype=ids.dtype)
    stays = torch.isin(ids, special)
    for example, item in enumerate(items):
        stays[example, len(item.inputs[role]) :] = True
    nothing = torch.zeros_like(embeds) + torch.as_tensor(value).to(embeds)
    return torch.where(stays.unsqueeze(2), embeds, nothing)


def _explanation(given: _Given, item: _Item, scores: _Scores, logits: Tensor, found: list[Tensor]) -> Explanation:
    count = len(scores.groups)
    parts = [each[:count, : len(ids)] for each, ids in zip(found, item.inputs, strict=True)]
    values = torch.cat(parts, 1)
    logits = logits if logits.ndim == 2 else logits.unsqueeze(0)
    log_probs = logits.to(wide(logits.dtype)).log_softmax(-1)
    places, tokens = torch.tensor(scores.positions), torch.tensor(scores.tokens)
    at, chosen = places.to(logits.device), tokens.to(logits.device)
    own = log_probs[at, chosen]
    measured = own if given.of == "log_prob" else logits[at, chosen]
    if scores.foils is not None:
        foils = torch.tensor(scores.foils, device=logits.device)
        measured = measured - (log_probs if given.of == "log_prob" else logits)[at, foils]
    first = at[[group[0] for group in scores.groups]]
    best = log_probs[first].max(-1)
    columns, groups, split = grouped(given.call, item.texts, given.per)
    source = item.texts if given.per == "token" else ()
    return Explanation(
        columns=columns,
        rows=scores.texts,
        attributions=summed(values, groups),
        scores=torch.stack([measured[group].sum() for group in scores.groups]),
        log_probs=torch.stack([own[group].sum() for group in scores.groups]),
        said=scores.named(best.indices.tolist()),
        said_log_probs=best.values,
        split=split,
        source=source,
    )
