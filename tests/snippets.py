"""The snippets of a page, run as they are read: one namespace a page, what comes out is checked.

A comment `# -> TEXT`, at the end of a top-level expression or alone on the next line, is the expression's outcome: the
`repr` of its value, or `Name: message` of the exception (or warning, where warnings are errors) that it raises. Runs of
white space count as one space; ` ...` at the end stands for any rest. A text block right below a snippet is what the
snippet prints, and its numbers may be off by two units of their last place. Everything else, asserts included, runs.
"""

import ast
import contextlib
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s:]+)\)")
NEEDS = re.compile(r"^<!-- needs: (?P<modules>.*?) -->$", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks in a language: number of lines before the block's first, and its text."""
    for found in FENCE.finditer(text):
        if found["language"] == language:
            yield text[: found.start("body")].count("\n"), textwrap.dedent(found["body"])


def needs(text: str) -> list[str]:
    """The modules that a page's snippets import and that may be missing, as its comment `<!-- needs: a, b -->` says."""
    return [module for found in NEEDS.finditer(text) for module in found["modules"].split(", ")]


def pictures(text: str) -> list[str]:
    """The picture files that a page shows, as it names them."""
    return [found["path"] for found in PICTURE.finditer(FENCE.sub("", text))]


def made_by(stem: str, text: str) -> list[str]:
    """The pictures that a page's own snippets save: those in the folder that has the page's name."""
    return [path for path in pictures(text) if path.split("/")[0] == stem]


def printed(text: str) -> dict[int, str]:
    """What snippets print, by the number of lines before a snippet's first: text blocks right below them."""
    found = list(FENCE.finditer(text))
    return {
        text[: code.start("body")].count("\n"): textwrap.dedent(shown["body"])
        for code, shown in pairwise(found)
        if (code["language"], shown["language"]) == ("python", "text") and not text[code.end() : shown.start()].strip()
    }


def outcomes(source: str) -> dict[int, str]:
    """The text of each `# -> ...` comment, by the line of the expression that it belongs to."""
    found = {}
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("# -> "):
            row, column = token.start
            alone = not lines[row - 1][:column].strip()
            found[row - 1 if alone else row] = token.string.removeprefix("# -> ")
    return found


def one_line(text: str) -> str:
    return " ".join(text.split())


def is_same_output(expected: str, actual: str) -> bool:
    """Whether texts agree but for white space, and their numbers to two units of the last place that is shown."""
    expected, actual = one_line(expected), one_line(actual)
    if NUMBER.sub("0", expected) != NUMBER.sub("0", actual):
        return False
    for one, other in zip(NUMBER.findall(expected), NUMBER.findall(actual), strict=True):
        places = len(one.partition(".")[2])
        if places != len(other.partition(".")[2]) or abs(float(one) - float(other)) > 2.1 * 10**-places * (places > 0):
            return False
    return True


def run_block(source: str, before: int, page: str, namespace: dict[str, Any]) -> None:
    """Run a block whose first line is line `before` + 1 of `page`, and check its outcomes."""
    source = "\n" * before + source
    expected = outcomes(source)
    for statement in ast.parse(source, page).body:
        text = expected.pop(statement.end_lineno or 0, None)
        if text is None:
            exec(compile(ast.Module([statement], []), page, "exec"), namespace)
            continue
        assert isinstance(statement, ast.Expr), f"{page}:{statement.lineno}: only an expression has an outcome"
        try:
            actual = repr(eval(compile(ast.Expression(statement.value), page, "eval"), namespace))
        except Exception as error:
            actual = f"{type(error).__name__}: {error}"
        actual, text = one_line(actual), one_line(text)
        same = actual.startswith(text.removesuffix("...")) if text.endswith(" ...") else actual == text
        if not same:
            raise AssertionError(f"{page}:{statement.lineno}: expected outcome\n  {text}\ngot\n  {actual}")
    assert not expected, f"{page}: an outcome on line {min(expected)} belongs to no top-level expression"


def run_page(text: str, page: str, namespace: dict[str, Any]) -> None:
    """Run all snippets of a page, and compare what they print with what is shown."""
    shown = printed(text)
    for before, source in blocks(text, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run_block(source, before, page, namespace)
        if before in shown and not is_same_output(shown[before], out.getvalue()):
            raise AssertionError(f"{page}:{before}: expected to be printed\n{shown[before]}\ngot\n{out.getvalue()}")
