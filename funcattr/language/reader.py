"""A language model as a function of its embeddings, and the proof that it says there what it says of the tokens."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..agreement import same_numbers
from ..attribution.targets import pick_output
from ..errors import UnsupportedOperationError, warn
from ..model.access import edit
from ..model.functional import functionalize, part_of

CACHES = ("past_key_values", "past_key_value", "cache", "cache_params", "past_buckets_states")


class Roles(NamedTuple):
    """What a kind of model does with text.

    Attributes:
        encoder: Whether the prompt goes to an encoder, and what is said to a decoder beside it.
        decodes: Whether it says what comes next; else the prompt is classified, or its masks are filled.
        ids: Names of the arguments for the token numbers: of the prompt, or of the encoder and the decoder.
    """

    encoder: bool
    decodes: bool
    ids: tuple[str, ...]


def roles_of(call: str, model: Any) -> Roles:
    """The roles of a model, by what it says of itself.

    Raises:
        TypeError: If it is no model as those of transformers.
    """
    if not isinstance(model, nn.Module) or not callable(getattr(model, "get_input_embeddings", None)):
        raise TypeError(
            f"{call}(model=...): expected a module with get_input_embeddings(), as transformers' models have it, got "
            f"{type(model).__name__}. Explain others with a method and target=funcattr.span(...)."
        )
    config = getattr(model, "config", None)
    can_generate = getattr(model, "can_generate", None)
    decodes = bool(can_generate()) if callable(can_generate) else False
    if decodes and getattr(config, "is_encoder_decoder", False):
        reads_text = getattr(model, "main_input_name", "input_ids") == "input_ids"
        names = ("input_ids", "decoder_input_ids") if reads_text else ("decoder_input_ids",)
        return Roles(reads_text, True, names)
    return Roles(False, decodes, ("input_ids",))


class Reader:
    """A model that reads embeddings in place of tokens, in one batch padded on the right.

    Args:
        call: First words of errors.
        model: The user's.
        roles: What it does with text.
        texts: The tokens of each example, a list for each of `roles.ids`.
        kwargs: More keyword arguments of the model's call.
    """

    def __init__(
        self, call: str, model: nn.Module, roles: Roles, texts: list[tuple[list[int], ...]], kwargs: Mapping[str, Any]
    ) -> None:
        self.call, self.roles, self.texts = call, roles, texts
        self.model: Any = model
        device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
        accepted = inspect.signature(model.forward).parameters
        for name in CACHES:
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{call}(kwargs={{{name!r}: ...}}): a cache holds tokens that get no number, and grows at each "
                    "call. Give the whole text as the prompt."
                )
        self.fm = functionalize(model)
        if self.fm.training:
            warn(f"{call}: the model is in training mode, so dropout changes its output. Call model.eval() first.")
        self.given: dict[str, Any] = dict(kwargs)
        if "use_cache" in accepted:
            self.given["use_cache"] = False
        self.ids, self.by_embeds, self.embeds = list[Tensor](), list[bool](), list[Tensor]()
        for role, name in enumerate(roles.ids):
            rows = [text[role] for text in texts]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
            mask = torch.tensor([[int(i < len(row)) for i in range(longest)] for row in rows], device=device)
            module = self._embedding(name)
            for row in rows:
                check_ids(call, "tokenizer", module, row)
            with torch.no_grad():
                self.embeds.append(part_of(self.fm, module)(ids).detach())
            self.ids.append(ids)
            mask_name = name.replace("input_ids", "attention_mask")
            if mask_name in accepted:
                self.given[mask_name] = mask
            self.by_embeds.append(name.replace("input_ids", "inputs_embeds") in accepted)
        self.ready = self.fm.ready()

    def _embedding(self, name: str) -> nn.Module:
        part: Any = self.model
        if name.startswith("decoder"):
            part = self.model.get_decoder()
        elif len(self.roles.ids) == 2:
            part = self.model.get_encoder()
        try:
            return part.get_input_embeddings()
        except (NotImplementedError, AttributeError) as error:
            raise TypeError(f"{self.call}(model=...): it does not tell its embeddings of tokens: {error}") from error

    def embedded(self, role: int, ids: Tensor) -> Tensor:
        """The embeddings of other tokens of a text. [N, T] -> [N, T, D]"""
        module = self._embedding(self.roles.ids[role])
        return part_of(self.fm, module)(ids).detach()

    def run(self, *embeds: Tensor) -> Tensor:
        """The logits at embeddings of the tokens, of the batch or of copies of it (batches one behind the other)."""
        times = len(embeds[0]) // len(self.texts)
        given = {name: self._copies(value, times) for name, value in self.given.items()}
        edits: dict[Any, Any] = {}
        for name, ids, value, by_embeds in zip(self.roles.ids, self.ids, embeds, self.by_embeds, strict=True):
            if by_embeds:
                given[name.replace("input_ids", "inputs_embeds")] = value
            else:
                given[name] = self._copies(ids, times)
                edits[self._embedding(name)] = lambda _, value=value: value
        model = edit(self.fm, edits).ready() if edits else self.ready
        try:
            return pick_output(self.call, model(**given), None)
        except IndexError as error:
            lengths = [ids.shape[1] for ids in self.ids]
            raise ValueError(
                f"{self.call}(prompt=...): the model has no place for a text of {lengths[0]} tokens: {error}"
            ) from error

    def _copies(self, value: Any, times: int) -> Any:
        rows = len(self.texts)
        is_batch = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == rows
        return value.repeat(times, *[1] * (value.ndim - 1)) if is_batch and times > 1 else value

    def alone(self, example: int, lengths: tuple[int, ...]) -> Tensor:
        """The logits of the first tokens of one example, by the model's own call with token numbers."""
        given: dict[str, Any] = {}
        for name, value in self.given.items():
            if not name.endswith("attention_mask"):
                has_rows = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == len(self.texts)
                given[name] = value[example : example + 1] if has_rows else value
        for name, ids, length in zip(self.roles.ids, self.ids, lengths, strict=True):
            given[name] = ids[example : example + 1, :length]
        with torch.no_grad():
            return pick_output(self.call, self.fm(**given), None)

    def is_right(self, logits: Tensor) -> bool:
        """Whether the logits from embeddings are those of the model's own call, for each example's text alone.

        One call on the most padded example settles it: it gets its token numbers alone, without masks, and without the
        last tokens that were said, at which what comes before must not look.
        """
        lengths = [tuple(map(len, text)) for text in self.texts]
        example = min(range(len(lengths)), key=lambda i: lengths[i])
        short = lengths[example]
        if self.roles.decodes:
            short = (*short[:-1], max(1, (short[-1] + 1) // 2))
        with _Precision() as precision:
            expected = self.alone(example, short)[0]
        found = logits[example]
        if self.roles.decodes:
            expected, found = expected[: short[-1]], found[: len(expected)]
        elif logits.ndim == 3:
            found = found[: short[0]]
        dtype = torch.float32 if precision.is_single and expected.dtype == torch.float64 else expected.dtype
        return same_numbers(expected.to(dtype), found.detach().to(dtype), size=0.0)

    def wrong(self) -> UnsupportedOperationError:
        """The error for a model that `is_right` refuses."""
        why = "or looks ahead at what it is to say, " if self.roles.decodes else ""
        return UnsupportedOperationError(
            f"{self.call}(model=...): the model gives other numbers from embeddings than from token numbers, {why}"
            "so its embeddings tell nothing of its answer. Does it read the numbers elsewhere too?"
        )


def check_length(call: str, model: Any, tokenizer: Any, length: int) -> None:
    """Raise if a text has more tokens than the model has positions for, as the model or the tokenizer says."""
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    told = [getattr(text_config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    limits = [n for n in told if isinstance(n, int) and n > 0]
    if limits and length > min(limits):
        raise ValueError(
            f"{call}(prompt=...): the prompt and what is said have {length} tokens, the model has {min(limits)} "
            "positions. Give a shorter text."
        )


def check_ids(call: str, name: str, embedding: Any, ids: list[int]) -> None:
    """Raise if one of the tokens is none that the model embeds; `name` is the argument that they are from."""
    size = getattr(embedding, "num_embeddings", None) or len(next(embedding.parameters()))
    bad = [i for i in ids if not 0 <= i < size]
    if bad:
        raise ValueError(
            f"{call}({name}=...): the token {bad[0]} is none of the model's, which embeds {size} tokens, 0 to "
            f"{size - 1}. Is the tokenizer that of another model?"
        )


def check_tokenizer(call: str, model: Any, tokenizer: Any) -> None:
    """Raise if the tokenizer has more tokens than the model embeds, or is none."""
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise TypeError(
            f"{call}(tokenizer=...): expected a tokenizer as those of transformers, got {type(tokenizer).__name__}."
        )
    size, count = getattr(model.get_input_embeddings(), "num_embeddings", None), len(tokenizer)
    if size is not None and count > size:
        raise ValueError(
            f"{call}(tokenizer=...): the tokenizer has {count} tokens, the model embeds {size}. Is it that of "
            "another model?"
        )


class _Precision(TorchFunctionMode):
    """Notes whether a model computes in single precision, as norms and positions do in models of double precision."""

    is_single = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.is_single = self.is_single or (isinstance(out, Tensor) and out.dtype == torch.float32)
        return out
