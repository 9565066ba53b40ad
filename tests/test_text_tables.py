"""Tables of text."""

from funcattr.text_tables import table


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    text = table(("name", "n"), [("a", "10"), ("longer", "7")], right=frozenset([1]))
    assert text.splitlines() == ["name    n", "a      10", "longer  7"]


def test_lines_have_no_space_at_the_end() -> None:
    assert table(("a", "b"), [("x", "")]) == "a b\nx"
