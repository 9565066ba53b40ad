"""The arguments of `funcattr run`. Their words are those of the Python interface."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .command_error import CommandError, one_line
from .model_arguments import add_images, add_model, add_options


def add_run(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="a method over a folder of images, into files",
        description="Attributions of every image of a folder, in Parquet or safetensors files. A run that was cut off "
        "goes on where it was, by the same command. Under torchrun each process takes its share.",
    )
    parser.set_defaults(run=run_command)
    add = parser.add_argument
    add("folder", type=Path, help="of images, with the folders in it")
    add_model(parser)
    add("--method", default="lrp", help="one method (default: %(default)s)")
    add("--target", default="top", help="top, an index or a class's name (default: %(default)s)")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    add("--device", default="cpu", help="where to run; cuda under torchrun: a card each (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all that is drawn at random (default: %(default)s)")
    add("--shard-size", type=int, default=1024, help="images in a file (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="images at once (default: %(default)s)")
    add("--dtype", choices=("float16", "float32", "float64"), default="float32", help="of the files (default: float32)")
    add("--files", choices=("parquet", "safetensors"), default="parquet", help="their format (default: parquet)")
    add("--as-map", metavar="NAME", help="keep maps in place of attributions: sum, max_abs, abs_sum, l2, ...")
    add("--max-errors", type=int, default=100, help="how many images may fail (default: %(default)s)")
    add("--engine", choices=("ray",), help="who computes, in place of this process")
    add("--workers", type=int, help="of Ray (default: one a card, or a core)")
    add("--no-progress", action="store_true", help="no progress bar")

    add_images(parser)
    add_options(parser, "defaults are the library's", "VALUE")


def run_command(args: argparse.Namespace) -> None:
    """Run; what the user can set right is printed in one line, with the exit status 2."""
    from .run import run  # the other commands need not wait for it

    try:
        run(args)
    except CommandError as error:
        print(f"funcattr run: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
