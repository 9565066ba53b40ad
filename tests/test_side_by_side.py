"""docs/side_by_side.md counts its own lines, and the other libraries' code runs where they are installed."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .snippets import FENCE

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "side_by_side.md").read_text()
LIBRARIES = {"funcattr": "funcattr", "pytorch-grad-cam": "pytorch_grad_cam", "Captum": "captum", "SHAP": "shap"}


class Code(NamedTuple):
    """What a picture takes in a library."""

    picture: str
    library: str
    source: str

    def __str__(self) -> str:
        return f"{self.picture}, {self.library}"


def codes(page: str) -> Iterator[Code]:
    """The blocks of each picture's section: funcattr's own is of Python, a text block belongs to the library above."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0].lower().replace("'", "").replace(" ", "-")
        for found in FENCE.finditer(section):
            above = re.split(r"[,:]", section[: found.start()].strip().splitlines()[-1])[0]
            yield Code(heading, "funcattr" if found["language"] == "python" else above, found["body"])


def table(page: str) -> dict[tuple[str, str], str]:
    """(picture, library) -> the cell of the table."""
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    libraries = [cell.strip() for cell in lines[0][1:]]
    pictures = {re.findall(r"#([\w-]+)", line[0])[0]: line[1:] for line in lines[1:]}
    return {(p, name): cell.strip() for p, cells in pictures.items() for name, cell in zip(libraries, cells)}


def counted(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


CODES = list(codes(PAGE))


def test_the_table_has_the_lines_of_every_code_and_no_other() -> None:
    lines = {(code.picture, code.library): str(counted(code.source)) for code in CODES}
    assert {place: cell for place, cell in table(PAGE).items() if cell != "-"} == lines
    assert set(LIBRARIES) == {library for _, library in table(PAGE)}


def test_no_other_library_takes_fewer_lines() -> None:
    ours = {code.picture: counted(code.source) for code in CODES if code.library == "funcattr"}
    assert len(ours) == 4
    assert [code for code in CODES if counted(code.source) < ours[code.picture]] == []


def test_a_line_more_or_a_wrong_library_is_noticed() -> None:
    page = "| picture | funcattr | SHAP |\n|---|---|---|\n| [bars](#bars) | 1 | 2 |\n\n## Bars\n\n```python\na\n```\n\n"
    page += "SHAP, of its own:\n\n```text\na\n\nb\n```\n"
    assert table(page) == {("bars", "funcattr"): "1", ("bars", "SHAP"): "2"}
    assert [(code.library, counted(code.source)) for code in codes(page)] == [("funcattr", 1), ("SHAP", 2)]


@pytest.mark.parametrize("code", [code for code in CODES if code.library != "funcattr"], ids=str)
@pytest.mark.filterwarnings("ignore")  # what the others warn of is theirs
def test_the_code_of_other_libraries_runs(code: Code, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = LIBRARIES[code.library]
    pytest.importorskip(module, reason=f"{module} is not installed (it is in the extra 'bench')")
    if "visualize_text" in code.source:
        pytest.importorskip("IPython", reason="Captum colours words in a notebook only: it asks for IPython")
    before = next(FENCE.finditer(PAGE))["body"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        exec(before, names)
        exec(code.source, names)
    (written,) = tmp_path.iterdir()
    assert written.stat().st_size > 500
