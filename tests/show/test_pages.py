"""Pages in inches, and texts in lines that fit."""

import pytest

from funcattr.show.pages import columns_of, page, place, wrapped, write


def test_axes_lie_where_they_are_placed() -> None:
    figure = page("f", 8.0, 4.0)
    axes = place(figure, left=1.0, top=0.5, width=2.0, height=1.0)
    assert figure.get_size_inches().tolist() == [8.0, 4.0] and figure.dpi == 100
    box = axes.get_position()
    assert [box.x0 * 8, box.x1 * 8] == pytest.approx([1, 3])
    assert [4 - box.y1 * 4, 4 - box.y0 * 4] == pytest.approx([0.5, 1.5])


def test_a_dollar_sign_is_a_dollar_sign() -> None:
    figure = page("f", 2.0, 2.0)
    write(figure, 1.0, 1.0, "$5 or $6")
    assert not figure.texts[0].get_parse_math()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", "short"),
        ("integrated gradients", "integrated\ngradients"),
        ("integrated_gradients", "integrated_\ngradients"),
        ("block.3.attention-out", "block.3.\nattention-\nout"),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijkl\nmnopqrstuvwx\nyz"),
        ("a abcdefghijklmnop", "a abcdefghij\nklmnop"),
        ("two\nlines", "two\nlines"),
        ("a b c d e f g h", "a b c d e f\ng h"),
        ("", ""),
    ],
)
def test_long_texts_are_wrapped_and_keep_their_letters(text: str, lines: str) -> None:
    found = wrapped(text, 12)
    assert found == lines
    assert max(len(line) for line in found.split("\n")) <= 12
    assert found.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_at_least_one_character_fits() -> None:
    assert columns_of(0.01, 9) == 1 and columns_of(1.0, 9) == 13
