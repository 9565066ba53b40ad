"""Names of classes, and the targets that are asked for by name, by index or as the top one."""

import difflib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .command_error import CommandError

TOP = "top"


class Classes(NamedTuple):
    """Names of a model's outputs, by index."""

    names: tuple[str, ...]
    source: str
    """Who says so."""


class Target(NamedTuple):
    """An output that is explained."""

    number: int
    """Its index."""
    name: str
    """With its index, for people."""
    score: str
    """What the model gives it, for people."""


def imagenet() -> Classes:
    """The 1000 classes of ImageNet."""
    lines = (files("funcattr.command") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return Classes(tuple(line for line in lines if not line.startswith("#")), "ImageNet")


def read_classes(file: Path) -> Classes:
    """One name a line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--labels {file}: expected a text file with one name a line, got {error}.") from error
    return Classes(tuple(line.strip() for line in lines), str(file))


def targets_of(asked: Sequence[str], outputs: Tensor, classes: Classes | None) -> list[Target]:
    """The targets that `--target` names, in order, each once.

    Args:
        asked: Each `top`, an index or a name, or several separated by commas.
        outputs: What the model gives the example. [K]
        classes: The names, if there are some.

    Raises:
        CommandError: If there are not as many names as outputs, or none has that name, or several.
    """
    count = len(outputs)
    if classes is not None and len(classes.names) != count:
        raise CommandError(
            f"expected a name for each of the model's {count} outputs, got {len(classes.names)} from {classes.source}. "
            "Give a file with one name a line: --labels FILE."
        )
    names = None if classes is None else classes.names
    words = [word for text in asked for word in _words(text, names)]
    indices = dict.fromkeys(_index(word, outputs, names) for word in words)
    return [Target(i, _name(i, names), _score(outputs, i)) for i in indices]


def _words(text: str, names: tuple[str, ...] | None) -> list[str]:
    """The parts between commas, unless a class has the whole text for its name."""
    if names is not None and _named(text, names):
        return [text.strip()]
    return [word.strip() for word in text.split(",")]


def _named(word: str, names: Sequence[str]) -> list[int]:
    """The indices that have this name; upper and lower case are alike."""
    return [i for i, name in enumerate(names) if name.casefold() == word.strip().casefold()]


def _index(word: str, outputs: Tensor, names: tuple[str, ...] | None) -> int:
    count = len(outputs)
    found = _named(word, names or ())
    if word == TOP:
        if found:
            raise CommandError(
                f"--target {TOP}: one class has this name, {found[0]}. Give its index, or that of the top one."
            )
        return int(outputs.argmax())
    if re.fullmatch("-?[0-9]+", word):
        index = int(word)
        if found and found != [index]:
            raise CommandError(
                f"--target {word}: expected an index or a name, got the index {index} and the name of {found}."
            )
        if not -count <= index < count:
            raise CommandError(
                f"--target {word}: expected an index in 0..{count - 1}, for the model has {count} outputs."
            )
        return index % count
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"--target {word!r}: {len(found)} classes have this name. Give an index: {found}.")
    if names is None:
        raise CommandError(
            f"--target {word!r}: expected '{TOP}' or an index in 0..{count - 1}, for the model's classes have no names "
            "here. Give a file with one name a line: --labels FILE."
        )
    lower = {name.casefold(): name for name in names}
    has_word = [name for name in names if word.casefold() in re.findall(r"\w+", name.casefold())]
    alike = [lower[name] for name in difflib.get_close_matches(word.casefold(), lower, n=3, cutoff=0.4)]
    closest = (has_word or alike or [name for name in names if word.casefold() in name.casefold()])[:3]
    way_out = f"Closest: {', '.join(map(repr, closest))}." if closest else f"'{names[0]}', say, or an index."
    raise CommandError(f"--target {word!r}: no class has this name. {way_out}")


def _name(index: int, names: tuple[str, ...] | None) -> str:
    return f"{index} {names[index]}" if names else f"class {index}"


def _score(outputs: Tensor, index: int) -> str:
    value = f"output {float(outputs[index]):.4g}"
    if len(outputs) == 1:
        return value
    # Outputs that are shares already would be shared out twice.
    shares = bool((outputs >= 0).all()) and abs(float(outputs.sum()) - 1) < 1e-3
    return f"{value}, all sum to 1" if shares else f"{value}, softmax {float(outputs.softmax(0)[index]):.3f}"
