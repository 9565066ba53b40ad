"""The documentation runs: every ```python block of README.md and docs/, block by block, one namespace a page.

`tests/snippets.py` says how outcomes, printed text and pictures are checked; `test_the_runner_fails_...` show that the
checks can fail.
"""

import inspect
import re
import shlex
import sys
import types
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

import funcattr

from .snippets import FENCE, blocks, is_same_output, made_by, needs, pictures, printed, run_block, run_page
from .sweeps import long

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "api").glob("*.md"))
PAGES = (README, *sorted(set(DOCS.rglob("*.md")) - set(REFERENCE)))
LONG = ("gallery.md", "photograph.md", "wrong_reasons.md", "composing.md", "circuit.md", "language.md", "signal.md")
"""Pages whose snippets take long."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# --- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[long] if page.name in LONG else [], id=page.name) for page in PAGES]
)
def test_snippets_run(page: Path, fresh_dynamo: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = page.read_text()
    for module in needs(text):
        pytest.importorskip(module, reason=f"the snippets of {page.name} need {module}")
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # Dynamo looks a function's globals up by module
    monkeypatch.chdir(tmp_path)
    run_page(text, str(page), vars(module))
    assert [path for path in made_by(page.stem, text) if not (tmp_path / path).is_file()] == []


@each_page
def test_lines_fit_and_fences_are_known(page: Path) -> None:
    text = page.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        # A row of a table cannot be broken, nor can a picture that is a link.
        assert len(line) <= 120 or line.startswith(("|", "[![", "- [![")), (
            f"{page.name}:{number}: {len(line)} characters"
        )
    assert text.count("```") == 2 * len(list(FENCE.finditer(text))), (
        f"{page.name}: a fence without a language or an end"
    )
    assert {found["language"] for found in FENCE.finditer(text)} <= {"python", "sh", "text"}


def anchors(page: Path) -> set[str]:
    if page in REFERENCE:  # an entry's anchor is its name
        return set(re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE))
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading in it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@each_page
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page) == []


def test_every_page_is_linked_from_the_index_and_has_a_place_on_the_site() -> None:
    index, site = (DOCS / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for page in (*PAGES[1:], *REFERENCE):
        path = page.relative_to(DOCS).as_posix()
        assert f": {path}\n" in site, path
        assert path == "index.md" or f"({path})" in index, path


def test_the_pictures_that_pages_show_are_there_and_small() -> None:
    shown = {(page.parent / path).resolve() for page in PAGES for path in pictures(page.read_text())}
    assert len(shown) > 30
    assert [path for path in shown if not path.is_file()] == []
    assert [path for path in shown if path.stat().st_size > 300_000] == []
    assert sum(path.stat().st_size for path in shown) < 2_000_000
    assert {p for p in DOCS.rglob("*.*") if p.suffix in (".png", ".jpg")} - shown == set(), "no page shows it"


def test_readme_shows_a_short_example_early() -> None:
    before, source = next(blocks(README.read_text(), "python"))
    assert before + 1 <= 40
    assert len(source.splitlines()) <= 20


def public_names() -> set[str]:
    """As a user writes them behind `funcattr.`; the rules have a page of their own."""
    names = {
        name for name in dir(funcattr) if not name.startswith("_") and not inspect.ismodule(getattr(funcattr, name))
    }
    for namespace in ("maps", "masks", "metrics", "metrics.datasets", "bottleneck", "show", "scale"):
        for name, value in vars(attrgetter(namespace)(funcattr)).items():
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("funcattr."):
                names.add(f"{namespace}.{name}")
    return names


NO_MAP = {
    *("edges", "readout_iba", "relevance_maximization", "metrics", "conservation", "verify", "shapley_values"),
    *("attention_rollout", "attention_relevance", "legrad", "value_zeroing"),  # its networks have no attention
}
"""Functions of a model, an input and a target that the gallery cannot or need not show."""


def test_the_gallery_shows_every_method_that_makes_maps() -> None:
    text = (DOCS / "gallery.md").read_text()
    methods = {
        name
        for name in public_names()
        if inspect.isfunction(method := getattr(funcattr, name, None))
        and {"model", "x", "target"} <= set(inspect.signature(method).parameters)
    }
    assert {"lrp", "rise", "iba"} < methods
    missing = {name for name in methods - NO_MAP if f"#funcattr.{name})" not in text}
    assert missing == {"attribute", "rule_table"} & missing


def test_quick_methods_of_the_gallery_draw_their_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = DOCS / "gallery.md"
    for module in needs(page.read_text()):
        pytest.importorskip(module, reason=f"the snippets of {page.name} need {module}")
    (_, setup), (_, gradients), *_ = blocks(page.read_text(), "python")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    quick = [line for line in gradients.splitlines() if line.startswith(('draw("gradient"', 'draw("grad_cam"'))]
    run_page("".join(f"```python\n{source}\n```\n" for source in (setup, *quick)), "gallery.md", namespace)
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {"gradient.jpg", "grad_cam.jpg"}


def unmentioned(names: set[str], text: str) -> set[str]:
    return {name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}\b", text.replace("funcattr.", ""))}


def test_every_public_name_is_on_some_page() -> None:
    assert {"lrp", "maps.sum", "masks.rise_masks", "metrics.pointing_game", "bottleneck.capacity"} < public_names()
    assert len(public_names()) > 60
    assert unmentioned(public_names(), "\n".join(page.read_text() for page in PAGES)) == set()


def test_the_readmes_picture_is_what_its_lines_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before, source = next(blocks(README.read_text(), "python"))
    run_block(source, before, "README.md", {})
    stored = ROOT / "docs" / "pictures" / "where.png"
    assert stored.stat().st_size <= 300_000
    made, shown = imread(tmp_path / "where.png"), imread(stored)
    assert made.shape == shown.shape
    assert abs(made - shown).mean() < 0.02  # fonts differ from machine to machine


# --- the commands ----------------------------------------------------------------------------------------------------


def readme_steps() -> list[list[str]]:
    """The steps of the README's two commands, each without the path of its virtual environment."""
    lines = [line for _, body in blocks(README.read_text(), "sh") for line in body.splitlines()]
    return [shlex.split(step.replace(".venv/bin/", "")) for line in lines for step in line.split(" && ")]


def ci_steps() -> list[list[str]]:
    text = (ROOT / ".ci" / "run").read_text().replace('"$venv"/bin/', "")
    return [shlex.split(line, comments=True) for line in text.splitlines() if not line.startswith((" ", "#"))]


def test_readme_has_the_two_commands_and_ci_runs_their_steps() -> None:
    steps, ci = readme_steps(), ci_steps()
    venv = ["python3.11", "-m", "venv", ".venv"]
    demo, test = ["python", "-m", "funcattr", "demo"], ["python", "-m", "pytest", "-n", "auto"]
    assert [s for s in steps if s[0] != "pip"] == [venv, demo, venv, test]
    install = next(s for s in steps if "-e" in s)
    assert install[:2] == ["pip", "install"]
    for step in (install, test):
        assert step in ci, f".ci/run does not run exactly {shlex.join(step)}"
    assert any(s[: len(demo)] == demo for s in ci)
    torch_pin = next(part for part in install if part.startswith("torch=="))
    assert ["pip", "install", torch_pin] in ci
    assert all(torch_pin in s for s in steps if s[0] == "pip")
    assert ci.index(install) < ci.index(test)


def test_ci_script_stops_at_a_failure_and_checks_style_and_types() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in text
    steps = ci_steps()
    assert ["ruff", "check", "."] in steps
    assert ["ruff", "format", "--check", "."] in steps
    assert any(s[:1] == ["pyright"] for s in steps)
    assert "||" not in text


# --- the mechanisms can fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 + 1  # -> 3", r"page\.md:8: expected outcome\n  3\ngot\n  2"),
        ("1 + 1\n# -> 3", r"page\.md:8: expected outcome\n  3"),
        ("1 + 1  # -> ValueError: ...", r"got\n  2"),
        ("[][0]  # -> IndexError: another", r"got\n  IndexError: list index out of range"),
        ("[1, 2]  # -> [1", r"expected outcome"),
        ("x = 1  # -> 1", r"only an expression has an outcome"),
        ("\n\n# -> 1", r"an outcome on line 9 belongs to no top-level expression"),
        ("if True:\n    1  # -> 2\nelse: pass", r"belongs to no top-level expression"),
        ("assert 1 + 1 == 3, 'wrong'", "wrong"),
    ],
)
def test_the_runner_fails_on_a_wrong_outcome(source: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run_block(source, 7, "page.md", {})


def test_the_runner_fails_on_a_warning_and_on_an_exception() -> None:
    with pytest.raises(UserWarning, match="careful"):
        run_block("warnings.warn('careful')", 0, "page.md", {"warnings": warnings})
    with pytest.raises(IndexError):
        run_block("[][0]", 0, "page.md", {})


def test_the_runner_passes_right_outcomes() -> None:
    source = "x = 2\nx + 1  # -> 3\n[1,\n 2]  # -> [1, 2]\n'# -> 1'\n# -> '# -> 1'\n[][0]  # -> IndexError: list ...\n"
    namespace: dict[str, Any] = {}
    run_block(source, 3, "page.md", namespace)
    assert namespace["x"] == 2


def test_the_runner_fails_on_other_output_than_is_shown() -> None:
    page = "```python\nprint('a', 0.51)\n```\n\n```text\na {}\n```\n"
    run_page(page.format("0.50"), "page.md", {})
    run_page(page.format("0.5").replace("```text", "Prose.\n```text"), "page.md", {})
    for wrong in ("0.56", "0.5", "", "0.51 b"):
        with pytest.raises(AssertionError, match=r"page\.md:1: expected to be printed"):
            run_page(page.format(wrong), "page.md", {})
    assert is_same_output("3 of 10", "3  of 10\n") and not is_same_output("3 of 10", "4 of 10")
    assert is_same_output("0.00", "-0.01") and not is_same_output("0.02", "-0.02")
    assert list(printed(page.format(1))) == [1]


def test_needs_and_pictures_are_read_from_the_page() -> None:
    text = "# A\n<!-- needs: a.b, c -->\n![x](a/p.png) [![y](b/q.jpg)](l.md)\n```text\n![n](no.png)\n```\n"
    assert needs(text) == ["a.b", "c"]
    assert pictures(text) == ["a/p.png", "b/q.jpg"] and made_by("a", text) == ["a/p.png"]


def test_blocks_are_found_in_lists_too() -> None:
    text = "a\n```python\n1\n```\n- b\n\n  ```python\n  if 1:\n      2\n  ```\n```sh\nls\n```\n"
    assert list(blocks(text, "python")) == [(2, "1\n"), (7, "if 1:\n    2\n")]


def test_the_link_and_name_checks_fail_where_they_should(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One two\n[x](b.md) [y](a.md#one-two) [z](#two) [w](https://w.org)\n```text\n[v](v.md)\n```\n")
    assert broken_links(page) == ["b.md", "#two"]
    assert unmentioned({"site", "maps.sum", "edit"}, "`funcattr.site`, sum, unsite, edited, `maps.sum`") == {"edit"}
