"""Coloured words say what they were given, in HTML that is safe and in codes that steer no terminal."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from funcattr import show

WORDS = ["a", "<b>", "c & d"]


class Spans(HTMLParser):
    """The words of a page with their styles and titles, and whether all tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.attributes: dict[str, Any] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.attributes = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "span":
            self.found.append((data, self.attributes["style"], self.attributes["title"]))


def background(style: str) -> tuple[int, ...]:
    found = re.match(r"background:rgb\((\d+), (\d+), (\d+)\)", style)
    assert found
    return tuple(map(int, found.groups()))


def test_html_shows_each_word_on_the_colour_of_its_number() -> None:
    page = Spans(show.tokens(WORDS, torch.tensor([0.0, 2.0, -2.0]), quantile=1.0).html)
    assert page.open == []
    assert [(word, title) for word, _, title in page.found] == [("a", "0"), ("<b>", "2"), ("c & d", "-2")]
    white, red, blue = (background(style) for _, style, _ in page.found)
    assert white == (255, 255, 255) and red == (178, 24, 43) and blue == (33, 102, 172)
    assert "color:#000" in page.found[0][1] and "color:#fff" in page.found[1][1]


def test_half_the_relevance_is_half_the_way_to_the_colour() -> None:
    page = Spans(show.tokens(["a", "b"], [1.0, 2.0], quantile=1.0).html)
    assert background(page.found[0][1]) == pytest.approx(((255 + 178) / 2, (255 + 24) / 2, (255 + 43) / 2), abs=1)


def test_ansi_shows_the_words_between_codes() -> None:
    colored = show.tokens(WORDS, [0.0, 2.0, -2.0], quantile=1.0)
    first, legend = colored.ansi.split("\n")
    assert re.sub(r"\x1b\[[\d;]*m", "", first) == "a <b> c & d"
    assert "\x1b[48;2;178;24;43;38;2;255;255;255m<b>\x1b[0m" in first
    assert "red: for, blue: against; full colour at 2, up to the largest |value|" in legend


def test_a_notebook_shows_html_and_a_terminal_codes() -> None:
    colored: Any = show.tokens(WORDS, [0.0, 1.0, 2.0])
    assert colored._repr_html_() == colored.html and repr(colored) == str(colored) == colored.ansi


def test_rows_have_one_scale_and_titles() -> None:
    colored = show.tokens(["x", "y"], torch.tensor([[1.0, 0.5], [0.5, -1.0]]), titles=["cat <1>", "dog"], quantile=1.0)
    page = Spans(colored.html)
    assert [background(style) for _, style, _ in page.found][1] == [background(style) for _, style, _ in page.found][2]
    assert "cat &lt;1&gt;</b>" in colored.html and "\x1b[1mdog\x1b[0m" in colored.ansi


def test_words_cannot_break_the_page_or_steer_the_terminal() -> None:
    colored = show.tokens(['"><script>', "\x1b[2J", "a\nb", "Ġthe"], [1.0, 2.0, 3.0, 4.0], titles=["\x1b[0m\n"])
    assert "<script" not in colored.html and Spans(colored.html).open == []
    assert [word for word, *_ in Spans(colored.html).found] == ['"><script>', r"\x1b[2J", r"a\nb", "Ġthe"]
    assert "\x1b[2J" not in colored.ansi and r"\x1b[2J" in colored.ansi
    assert len(colored.ansi.split("\n")) == 2


def test_two_thousand_tokens() -> None:
    colored = show.tokens([f"word{i}" for i in range(2000)], torch.linspace(-1, 1, 2000))
    assert len(Spans(colored.html).found) == 2000 and colored.ansi.count("\x1b[48;2;") == 2000


def test_no_relevance_is_white_without_a_warning() -> None:
    colored = show.tokens(WORDS, torch.zeros(3))
    assert {background(style) for _, style, _ in Spans(colored.html).found} == {(255, 255, 255)}
    assert "all values are 0" in colored.html


@pytest.mark.parametrize(
    ("words", "relevance", "options", "kind", "message"),
    [
        (WORDS, torch.zeros(5), {}, ValueError,
         r"^tokens\(words=\.\.\., relevance=\.\.\.\): .* got more numbers than words: 5 numbers, 3"),
        (WORDS, torch.zeros(2), {}, ValueError, r"got more words than numbers: 2 numbers, 3 words\. Are special"),
        (WORDS, torch.zeros(1, 3, 4), {}, ValueError,
         r"^tokens\(relevance=\.\.\.\): .* got \[1, 3, 4\]\. Sum over the features"),
        ([], torch.zeros(0), {}, ValueError, r"^tokens\(relevance=\.\.\.\): .* got \[0\]"),
        (WORDS, torch.tensor([0.0, torch.nan, 1.0]), {}, ValueError, r"^tokens\(relevance=\.\.\.\): .* nan at \[1\]"),
        ("abc", torch.zeros(3), {}, TypeError, r"^tokens\(words=\.\.\.\): expected a list of words, got one text"),
        (WORDS, torch.zeros(3), {"titles": ["a", "b"]}, ValueError,
         r"^tokens\(titles=\.\.\.\): expected 1 texts, one for each row"),
        (WORDS, torch.zeros(3), {"quantile": 0.0}, ValueError, r"^tokens\(quantile=0\.0\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(words: Any, relevance: Any, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        show.tokens(words, relevance, **options)
