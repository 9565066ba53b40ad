"""The pictures of the pages, made again: `python -m tests.pictures`, or with the pages as arguments.

Runs the snippets of each page that shows pictures, as the tests do, and copies what they save beside the page.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path

import torch

from .snippets import made_by, run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"


def make(page: Path, text: str) -> list[Path]:
    """Run a page's snippets in a new folder, and copy the pictures that the page shows beside it."""
    module = types.ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module
    torch.manual_seed(0)
    before, written = Path.cwd(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run_page(text, str(page), vars(module))
            for path in made_by(page.stem, text):
                target = page.parent / path
                target.parent.mkdir(exist_ok=True)
                written.append(Path(shutil.copyfile(path, target)))
        finally:
            os.chdir(before)
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures of some or all pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="all that show pictures by default")
    torch.set_num_threads(1)  # as in the tests
    paths = parser.parse_args(argv).pages or sorted(DOCS.rglob("*.md"))
    for page in map(Path.resolve, paths):
        text = page.read_text()
        if not made_by(page.stem, text):
            continue
        start = time.perf_counter()
        files = make(page, text)
        size, seconds = sum(file.stat().st_size for file in files), time.perf_counter() - start
        print(f"{page.name}: {len(files)} pictures, {size / 1000:.0f} kB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
