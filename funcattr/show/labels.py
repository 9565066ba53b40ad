"""Texts that go with numbers: one for each of them."""

from collections.abc import Sequence


def texts(call: str, name: str, given: Sequence[str] | None, count: int, of: str) -> list[str]:
    """So many texts, empty ones where none are given.

    Raises:
        ValueError: If there are more or fewer.
        TypeError: If one is no text, or they are one text, whose letters would be taken for them.
    """
    if given is None:
        return [""] * count
    if isinstance(given, str) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"{call}({name}=...): expected a list of {count} texts, one for each {of}, got {given!r:.80}.")
    if len(given) != count:
        raise ValueError(f"{call}({name}=...): expected {count} texts, one for each {of}, got {len(given)}.")
    return list(given)
