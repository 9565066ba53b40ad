"""The arguments of `funcattr truth`."""

from pathlib import Path
from typing import Any

from .names import SUBJECTS


def add_truth(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "truth",
        help="measure every method by every measure, on three networks",
        description="Which map to believe: tables, truth.json and a picture for each network. About a quarter of an "
        "hour on two cores. A run that is cut off goes on where it was.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("funcattr_truth"), help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="which networks (default: all three)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")

    def run(args: Any) -> None:
        from .run import truth  # the methods of the other commands need not wait for it

        truth(args.out, subjects=args.subjects, progress=not args.no_progress)

    parser.set_defaults(run=run)
