"""Pictures of attributions in a file: PNG, PDF or HTML, by its extension."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import show
from ..show.pages import require_matplotlib
from .classes import Target
from .command_error import CommandError, refusing
from .example import Shown
from .images import Photo
from .rows import Row
from .texts import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".html")

Numbers = Mapping[str, Sequence[Tensor]]
"""Method -> what a picture shows of it for each target."""


def check_file(word: str, file: Path, suffixes: Sequence[str]) -> None:
    """Whether a file can be written, before the work begins.

    Raises:
        CommandError: If its extension is another, or its folder is missing.
    """
    if file.suffix.lower() not in suffixes:
        raise CommandError(
            f"{word} {file}: expected a file that ends in {', '.join(suffixes)}, got {file.suffix or 'none'}."
        )
    if not file.parent.is_dir():
        raise CommandError(f"{word} {file}: expected a folder that is there, got {file.parent}.")


def check_drawing(shown: Shown, out: Path) -> None:
    """Raises: CommandError, if the picture needs matplotlib and it is missing."""
    if not (isinstance(shown, Words) and out.suffix.lower() == ".html"):
        with refusing():
            require_matplotlib("explain")


def write_picture(out: Path, shown: Shown, numbers: Numbers, targets: Sequence[Target]) -> None:
    """Draw what each method gives for each target."""
    title = f"{', '.join(target.name for target in targets)}: {', '.join(numbers)}"
    with refusing():
        if isinstance(shown, Words) and out.suffix.lower() == ".html":
            parts = [(method, colored.html) for method, colored in colored_words(shown, numbers, targets).items()]
            _write_page(out, title, [f"<h3>{escape(method)}</h3>\n{html}" for method, html in parts])
            return
        _WRITERS[out.suffix.lower()](out, _figures(shown, numbers, targets), title)


def colored_words(shown: Words, numbers: Numbers, targets: Sequence[Target]) -> dict[str, show.ColoredTokens]:
    """Method -> the words, a row for each target."""
    titles = [target.name for target in targets]
    return {m: show.tokens(shown.words, torch.stack(list(rows)), titles=titles) for m, rows in numbers.items()}


def _figures(shown: Shown, numbers: Numbers, targets: Sequence[Target]) -> "list[Figure]":
    if isinstance(shown, Photo):
        if len(numbers) == len(targets) == 1:
            ((method, (only,)),) = numbers.items()
            return [show.overlay(shown.pixels, only, title=f"{targets[0].name}: {method}")]
        images = [shown.pixels] * len(targets)
        return [show.grid(images, numbers, titles=[target.name for target in targets])]
    names, x, k = (shown.names, shown.values, 10) if isinstance(shown, Row) else (shown.words, None, 20)
    return [
        show.bars(names, values, x=x, k=k, title=f"{target.name}: {method}")
        for method, rows in numbers.items()
        for target, values in zip(targets, rows, strict=True)
    ]


def _png(figure: "Figure") -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _write_png(out: Path, figures: "Sequence[Figure]", title: str) -> None:
    """Several figures stand below each other."""
    from PIL import Image

    images = [Image.open(io.BytesIO(_png(figure))).convert("RGB") for figure in figures]
    page = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    page.save(out)


def _write_pdf(out: Path, figures: "Sequence[Figure]", title: str) -> None:
    """A page each."""
    from matplotlib.backends.backend_pdf import PdfPages

    with PdfPages(out, metadata={"Title": title}) as pages:
        for figure in figures:
            pages.savefig(figure)


def _write_html(out: Path, figures: "Sequence[Figure]", title: str) -> None:
    images = (base64.b64encode(_png(figure)).decode() for figure in figures)
    _write_page(out, title, [f'<img alt="{escape(title)}" src="data:image/png;base64,{image}">' for image in images])


_WRITERS = {".png": _write_png, ".pdf": _write_pdf, ".html": _write_html}


def _write_page(out: Path, title: str, parts: Sequence[str]) -> None:
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
    style = '<body style="font-family:sans-serif;background:#fff;color:#000">\n'
    out.write_text(head + style + "\n".join(parts) + "\n</body>\n", encoding="utf-8")
