"""The example that is explained: a photograph, a text or a row of a table, by the kind of the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functionalize
from ..attribution.targets import pick_output
from ..model.sites import Reader
from ..scale.image_folder import SUFFIXES
from .command_error import CommandError, refusing
from .images import Photo, Transform, plain_transform, read_photo
from .loaded import Loaded
from .rows import Row, read_row
from .texts import EMBEDS, Words, read_texts

Shown = Photo | Words | Row
"""What of an example a picture shows."""


class Example(NamedTuple):
    """What a model is asked about."""

    x: Tensor | dict[str, Tensor]
    """Its input, a batch of one; that of a text is a mapping with the embeddings of its tokens."""
    shown: Shown
    says: str
    """What was done, for people."""

    @property
    def explained(self) -> Tensor:
        """What the attributions are of. [1, ...]"""
        return self.x if isinstance(self.x, Tensor) else self.x[EMBEDS]

    def call(self, model: Any) -> Any:
        """The model's answer."""
        return model(self.x) if isinstance(self.x, Tensor) else model(**self.x)


class Sizes(NamedTuple):
    """How a model takes photographs, as `--size`, `--mean`, `--std` and `--grey` say it."""

    size: Sequence[int] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    grey: bool


def read_example(
    file: Path | None,
    texts: Sequence[str],
    loaded: Loaded,
    device: torch.device,
    *,
    sizes: Sizes,
    row: int | None,
    columns: Sequence[str] | None,
) -> Example:
    """What the file or the text holds, as the model takes it.

    Raises:
        CommandError: If there is nothing or both, the file is of no known kind, or nothing says how the model takes it.
    """
    if (file is None) == (not texts):
        raise CommandError(
            "expected a file or --text, got " + ("both." if texts else "neither: funcattr explain photo.jpg.")
        )
    suffix = None if file is None else file.suffix.lower()
    if file is None or suffix == ".txt":
        _refuse(suffix or "--text", sizes, row, columns)
        if loaded.tokenizer is None:
            raise CommandError(
                f"{file or '--text'}: expected a model with a tokenizer of its own, got {loaded.says}. "
                "Texts are explained with --model transformers:FOLDER_OR_NAME."
            )
        x, words, count = read_texts(texts or [_text(file)], loaded.module, loaded.tokenizer)
        return Example(x, words, f"{file.name if file else 'text'}, {count}")
    if loaded.tokenizer is not None:
        raise CommandError(f"{file}: expected a text for {loaded.says}: a .txt file, or --text.")
    if suffix == ".csv":
        _refuse(suffix, sizes)
        if loaded.transform is not None:
            raise CommandError(f"{file}: expected an image for {loaded.says}. A table needs --model module.py:factory.")
        x, shown, says = read_row(file, row, columns)
        return Example(x.to(device), shown, says)
    if suffix in SUFFIXES:
        _refuse(suffix, None, row, columns)
        x, shown, says = read_photo(file, transform_of(file, loaded, sizes))
        return Example(x.to(device), shown, says)
    raise CommandError(f"{file}: expected {', '.join(SUFFIXES)}, .txt or .csv, got {file.suffix or 'no extension'}.")


def _refuse(kind: str, sizes: Sizes | None, row: int | None = None, columns: Sequence[str] | None = None) -> None:
    """Options of other kinds of files would be without effect."""
    said = {"--row": row, "--columns": columns} | ({f"--{k}": v for k, v in sizes._asdict().items()} if sizes else {})
    for word, value in said.items():
        if value is not None and value is not False:  # row 0 is one
            raise CommandError(f"{word}: it has no meaning for {kind}. Leave it out.")


def _text(file: Path | None) -> str:
    assert file is not None
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: expected a text in UTF-8, got {error}.") from error


def transform_of(file: Path, loaded: Loaded, sizes: Sizes) -> Transform:
    """How the model takes the images of a file or a folder.

    Raises:
        CommandError: If nothing says it.
    """
    said = {f"--{word}": value for word, value in sizes._asdict().items() if value is not None and value is not False}
    if not said and loaded.transform is not None:
        return loaded.transform
    if sizes.size is None or sizes.mean is None or sizes.std is None:
        got = ", ".join(said) or "nothing"
        raise CommandError(
            f"{file}: expected how {loaded.says} takes images, --size, --mean and --std, got {got}. Of "
            "pixels in 0..1 it gets (pixel - mean) / std: --mean 0 --std 1 changes nothing; most networks trained "
            "on ImageNet take --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225."
        )
    channels = 1 if sizes.grey else 3
    for word, numbers, most in (("size", sizes.size, 2), ("mean", sizes.mean, channels), ("std", sizes.std, channels)):
        if len(numbers) not in (1, most) or (word != "mean" and min(numbers) <= 0):
            above = "" if word == "mean" else " above 0"
            raise CommandError(f"--{word}: expected one number or {most}{above}, got {list(numbers)}.")
    return plain_transform(sizes.size, sizes.mean, sizes.std, grey=sizes.grey)


class Answer(NamedTuple):
    """What a model gives the example."""

    outputs: Tensor
    """[K]"""
    one: bool
    """Whether it gives an example one number and no row of them."""


def answer(example: Example, module: nn.Module, output: str | int | None) -> Answer:
    """The model's outputs.

    Raises:
        CommandError: If the model does not take the input, or gives something other than numbers for classes.
    """
    took = example.explained
    with refusing(f"the model did not take the input {list(took.shape)}: "), torch.no_grad():
        value = example.call(module)
    with refusing():
        outputs = pick_output("explain", value, output)
    if outputs.ndim not in (1, 2) or len(outputs) != 1 or not outputs.numel():
        raise CommandError(
            f"the model: expected outputs [1, classes], got {list(outputs.shape)}. Explain it in Python."
        )
    if not outputs.isfinite().all():
        raise CommandError("the model: expected finite outputs, got NaN or infinity.")
    return Answer(outputs.reshape(-1).float().cpu(), outputs.ndim == 1)


def sites_with_places(example: Example, module: nn.Module, count: int = 6) -> Mapping[str, list[int]]:
    """The last sites of the model with a value for each place (or token), in the order of a call, with their shapes."""
    model = functionalize(module)
    with torch.no_grad(), Reader(model.sites) as reader:
        example.call(model)
    shapes = {name: list(value.shape) for name, value in reader.values.items() if isinstance(value, Tensor)}
    found = {name: shape for name, shape in shapes.items() if _has_places(shape, example.shown)}
    return dict(list(found.items())[-count:])


def _has_places(shape: Sequence[int], shown: Shown) -> bool:
    if isinstance(shown, Photo) and len(shape) == 4:
        return min(shape[2:]) > 1
    return len(shape) == 3 and shape[1] > 1
