"""What mkdocs does beside its plugins: source files as pages, names as links, the package's version in the footer.

Pages link to files outside docs/ as GitHub wants it, `../tests/test_cost.py`. The site has a page for each such file.
A public name in backticks, `lrp` or `maps.sum`, leads to its entry in the reference. `Docstrings`, an extension of
griffe, makes Markdown of the package's docstrings: formulas stay as they are typed, examples are code.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?:\.\./)+(?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?(?=\))")

ENTRY = re.compile(r"^::: funcattr\.(?P<name>\S+)$", re.MULTILINE)
FENCE = re.compile(r"^(?P<fence> *`{3,}).*?^(?P=fence)$|^#[^\n]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<![`\[\w])`(?:funcattr\.)?(?P<name>[\w.]+)(?:\(\))?`(?![`\]])")
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Example|References):$", re.MULTILINE)


def entries() -> frozenset[str]:
    """The names that have an entry in the reference, as a user writes them behind `funcattr.`."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    return frozenset(match["name"] for page in pages for match in ENTRY.finditer(page.read_text()))


def with_links(markdown: str, names: frozenset[str]) -> str:
    """The text with each public name in backticks as a link to its entry; not in code blocks and headings."""

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}][funcattr.{match['name']}]" if match["name"] in names else match[0]

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [CODE.sub(link, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, CODE.sub(link, markdown[end:])])


def outside(page: str, link: str) -> str | None:
    """The path below the repository of a relative link that leaves docs/, from a page of docs/."""
    target = (ROOT / "docs" / page).parent.joinpath(link).resolve()
    return None if target.is_relative_to(ROOT / "docs") else target.relative_to(ROOT).as_posix()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the version at the foot of each page."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    config.copyright = f"funcattr {version}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    links = ((page, match[0].partition("#")[0]) for page, text in pages for match in LINK.finditer(text))
    for path in sorted({path for page, link in links if (path := outside(page, link))}):
        files.append(File.generated(config, f"source/{path}.md", content=as_page(path, (ROOT / path).read_text())))
    return files


def as_page(path: str, text: str) -> str:
    """A page that shows a Python file."""
    return f"---\nsearch:\n  exclude: true\n---\n# `{path}`\n\n`````python\n{text}`````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links that leave docs/ to those pages."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown

    def inside(match: re.Match[str]) -> str:
        path = outside(here, match[0].partition("#")[0])
        return match[0] if path is None else f"{'../' * here.count('/')}source/{path}.md{match['anchor'] or ''}"

    return with_links(LINK.sub(inside, markdown), entries())


# --- docstrings -------------------------------------------------------------------------------------------------------


def as_markdown(docstring: str) -> str:
    """The docstring with its formula as code, references as a paragraph, and the example under griffe's word for it.

    A paragraph below the summary is a formula if it does not end as a sentence does.
    """
    found = SECTION.search(docstring)
    cut = found.start() if found else len(docstring)
    summary, *paragraphs = docstring[:cut].strip().split("\n\n")
    if paragraphs and not paragraphs[0].rstrip().endswith((".", ":")):
        paragraphs[0] = f"```text\n{paragraphs[0].rstrip()}\n```"
    sections, _, references = docstring[cut:].partition("References:\n")
    if references:
        paragraphs.append(f"**References:** {' '.join(references.split())}")
    sections = re.sub(r"^Example:$", "Examples:", sections, flags=re.MULTILINE)
    return "\n\n".join([summary, *paragraphs, sections]).strip()


class Docstrings(griffe.Extension):
    """Rewrites every docstring before griffe parses it."""

    def __init__(self) -> None:
        super().__init__()
        self.names = entries()

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_links(as_markdown(obj.docstring.value), self.names)
