"""One text for each thing."""

from typing import Any

import pytest

from funcattr.show.labels import texts


def test_texts_are_as_given_or_empty() -> None:
    assert texts("f", "names", ("a", "b"), 2, "bar") == ["a", "b"]
    assert texts("f", "names", None, 2, "bar") == ["", ""]


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (["a"], ValueError, r"^f\(names=\.\.\.\): expected 2 texts, one for each bar, got 1\.$"),
        ("ab", TypeError, r"^f\(names=\.\.\.\): expected a list of 2 texts, one for each bar, got 'ab'\.$"),
        (["a", 1], TypeError, r"expected a list of 2 texts, one for each bar, got \['a', 1\]"),
    ],
)
def test_other_texts_are_refused(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        texts("f", "names", given, 2, "bar")
