"""The command line: `python -m funcattr` with `demo`, `explain`, `run` or `truth`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .command.arguments import add_explain
from .command.run_arguments import add_run
from .demo.run import demo
from .truth.arguments import add_truth


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m funcattr", description="Attribution as pure functions.")
    commands = parser.add_subparsers(dest="command", required=True)
    tour = commands.add_parser(
        "demo",
        help="ask methods where things are, on packaged networks",
        description="Ask a network trained on ImageNet where the cat is, and a small one where digits are, by many "
        "methods: a table of scores and a picture each.",
    )
    tour.add_argument(
        "--out", type=Path, default=Path("funcattr_demo"), help="folder of pictures (default: %(default)s)"
    )
    tour.add_argument(
        "--canvases", type=_positive, default=100, help="how many of 300 images of digits to use (default: %(default)s)"
    )
    tour.add_argument("--no-photos", action="store_true", help="digits only")
    tour.add_argument("--no-progress", action="store_true", help="no progress bar")
    tour.set_defaults(
        run=lambda args: demo(
            args.out, canvases=args.canvases, photos=not args.no_photos, progress=not args.no_progress
        )
    )
    add_explain(commands)
    add_run(commands)
    add_truth(commands)
    args = parser.parse_args(argv)
    args.run(args)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


if __name__ == "__main__":
    main()
