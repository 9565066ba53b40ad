"""The arguments of `funcattr explain`. Their words are those of the Python interface."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .command_error import CommandError, one_line
from .explain import explain
from .model_arguments import add_images, add_model, add_options


def add_explain(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="explain a model's answer to a photo, a text or a row of a table",
        description="From a model and a file to a picture of what the model looked at.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", type=Path, nargs="?", help="an image, a .txt or a .csv with a header")
    add("--text", action="append", help="a text in place of a file; twice for a pair")
    add_model(parser)
    add("--method", metavar="METHOD,...", help="methods (default: lrp; attnlrp for a text)")
    add("--target", action="append", help="top, an index or a class's name; several, separated by commas")
    add("--out", type=Path, metavar="FILE", help="the picture: .png, .pdf or .html (default: explanation.png)")
    add("--save", type=Path, metavar="FILE", help="the attributions: .safetensors")
    add("--verify", action="store_true", help="print what holds for the model and this input")
    add("--device", default="cpu", help="where to run (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all that is drawn at random (default: %(default)s)")
    add("--no-progress", action="store_true", help="no progress bars")

    images = add_images(parser)
    images.add_argument("--skip", type=int, help="tokens of no patch in front, of a vision transformer's layer")

    tables = parser.add_argument_group("tables")
    tables.add_argument("--row", type=int, help="number of the row; the first below the header is 0")
    tables.add_argument("--columns", type=_names, help="names of the model's features, separated by commas")

    says = "each VALUE, or METHOD=VALUE for one of several methods; defaults are the library's"
    add_options(parser, says, "[METHOD=]VALUE")


def run(args: argparse.Namespace) -> None:
    """Explain; what the user can set right is printed in one line, with the exit status 2."""
    try:
        explain(args)
    except CommandError as error:
        print(f"funcattr explain: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
