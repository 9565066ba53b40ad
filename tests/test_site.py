"""The site holds everything once: each public name has one entry in the reference, each page a place.

That `mkdocs build --strict` passes, with no broken link and no page left out, is a step of `.ci/run`.
"""

import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import funcattr
import funcattr.testing

ROOT = Path(__file__).resolve().parent.parent
NAMESPACES = (
    *(
        "bottleneck",
        "maps",
        "masks",
        "metrics",
        "metrics.datasets",
        "paths",
        "rules",
        "show",
        "language",
        "scale",
        "testing",
    ),
    *("compat.iba", "compat.tensorwatch", "compat.captum.attr", "compat.captum.attr.lrp_rules"),
)


def public_names() -> list[str]:
    """Every public name as a user writes it: of funcattr, and of its public namespaces."""
    names = []
    spaces = ("funcattr", *(f"funcattr.{name}" for name in NAMESPACES))
    for prefix, module in ((space, importlib.import_module(space)) for space in spaces):
        for name, value in vars(module).items():
            home = getattr(value, "__module__", "funcattr")
            # Names of another library's may stand for a rule, which has its entry.
            ours = home.startswith("funcattr") and not (".compat." in prefix and ".compat." not in home)
            if not name.startswith("_") and not inspect.ismodule(value) and ours:
                names.append(f"{prefix}.{name}")
    return names


def entries(pages: list[str]) -> list[str]:
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]


def test_every_public_name_has_one_entry_in_the_reference() -> None:
    names = public_names()
    assert {"funcattr.lrp", "funcattr.rules.z_plus", "funcattr.testing.check_rule", "funcattr.maps.sum"} <= {*names}
    found = Counter(entries([page.read_text() for page in (ROOT / "docs" / "api").glob("*.md")]))
    assert {name for name, times in found.items() if times > 1} == set()
    assert set(names) - set(found) == set(), "no entry in docs/api"
    assert set(found) - set(names) == set(), "an entry of a name that is not public"


def test_every_entry_says_what_its_name_is() -> None:
    for name in public_names():
        value = funcattr
        for part in name.split(".")[1:]:
            value = getattr(value, part)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, name


# --- mkdocs's part ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site_hooks(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mkdocs", reason="the site is built with the extra 'docs'")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import site_hooks  # pyright: ignore[reportMissingImports]

    yield site_hooks
    sys.modules.pop("site_hooks")


def test_links_that_leave_the_docs_are_told_from_others(site_hooks) -> None:
    assert site_hooks.outside("benchmarks.md", "../tests/test_cost.py") == "tests/test_cost.py"
    assert site_hooks.outside("api/rules.md", "../../examples/ensemble.py") == "examples/ensemble.py"
    assert site_hooks.outside("tutorials/signal.md", "../choosing.md") is None


def test_names_in_backticks_become_links_outside_of_code_and_headings(site_hooks) -> None:
    names = frozenset({"lrp", "maps.sum"})
    text = "# `lrp`\n`lrp`, `funcattr.maps.sum`, `sum`, [`lrp`](a.md)\n```python\n# `lrp`\n```\n`lrp()` and ``lrp``\n"
    assert site_hooks.with_links(text, names) == (
        "# `lrp`\n[`lrp`][funcattr.lrp], [`funcattr.maps.sum`][funcattr.maps.sum], `sum`, [`lrp`](a.md)\n"
        "```python\n# `lrp`\n```\n[`lrp()`][funcattr.lrp] and ``lrp``\n"
    )


def test_docstrings_keep_their_formulas_as_typed(site_hooks) -> None:
    head, sections = "Sum.\n\nR_i = a * b * c\n\nMore.\n\n", "Args:\n    x: One.\n\nExample:\n    >>> 1\n    1\n\n"
    assert site_hooks.as_markdown(f"{head}{sections}References:\n    A,\n    b.\n") == (
        "Sum.\n\n```text\nR_i = a * b * c\n```\n\nMore.\n\n**References:** A, b.\n\n"
        "Args:\n    x: One.\n\nExamples:\n    >>> 1\n    1"
    )
    assert site_hooks.as_markdown("One.\n\nTwo = a sentence.") == "One.\n\nTwo = a sentence."
