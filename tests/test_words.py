"""One word for one thing: every argument of a public function is on the page of words, and no synonym is used."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import funcattr

PAGE = Path(__file__).resolve().parent.parent / "docs" / "words.md"
SPACES: tuple[Any, ...] = (
    funcattr,
    funcattr.maps,
    funcattr.masks,
    funcattr.metrics,
    funcattr.metrics.datasets,
    funcattr.bottleneck,
    funcattr.show,
    funcattr.language,
    funcattr.scale,
)
SEEDED = {"funcattr.scale.run"}
"""Functions whose randomness is written down, and never a generator's that moves on."""
SYNONYMS = {
    *("seed", "site", "reference", "stdev", "stdevs", "learning_rate", "area_on", "step", "shape", "return_delta"),
    *("return_history", "n_steps", "n_samples", "baselines", "target_layer", "target_layers", "eps", "logit"),
}


def signatures() -> Iterator[tuple[str, inspect.Signature]]:
    """Every public function of the package and of its namespaces (rules have the letters of their papers)."""
    for space in SPACES:
        for name, value in vars(space).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith("funcattr"):
                yield f"{space.__name__}.{name}", inspect.signature(value)


def listed(page: str) -> list[str]:
    """The words of the page's tables."""
    rows = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`(\w+)`", row)]


def used() -> dict[str, list[str]]:
    """Argument -> the functions that have it."""
    found: dict[str, list[str]] = {}
    for name, signature in signatures():
        for parameter in signature.parameters:
            found.setdefault(parameter, []).append(name)
    return found


def test_every_argument_is_on_the_page_and_every_word_is_an_argument() -> None:
    words = listed(PAGE.read_text())
    assert len(words) == len(set(words))
    assert set(words) == set(used())


def test_no_synonym_is_an_argument() -> None:
    found = {word: set(functions) for word, functions in used().items() if word in SYNONYMS}
    assert found == {"seed": SEEDED}


def test_no_option_changes_the_type_of_the_result() -> None:
    for name, signature in signatures():
        assert "|" not in str(signature.return_annotation), f"{name} -> {signature.return_annotation}"


def test_the_same_argument_has_the_same_default_where_it_means_the_same() -> None:
    for word in ("progress", "chunk_size", "generator", "output", "args", "kwargs"):
        defaults = {s.parameters[word].default for _, s in signatures() if word in s.parameters}
        assert len(defaults - {inspect.Parameter.empty}) == 1, (word, defaults)


def test_the_words_are_read_from_the_tables_only() -> None:
    assert listed("`no` | x |\n| `a`, `b` | the `c` |\n|---|---|\n| word | meaning |\n") == ["a", "b"]
