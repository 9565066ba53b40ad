"""Arguments of a model, its images and its methods, in the same words for each command."""

import argparse
from pathlib import Path
from typing import Any

from .methods import OPTIONS, integers, numbers, spelled
from .models import DEMO, SPELLINGS


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, and what its outputs are called."""
    add = parser.add_argument
    add("--model", default=DEMO, help=f"{SPELLINGS} (default: %(default)s)")
    add("--weights", type=Path, metavar="FILE", help="a state_dict, .safetensors or .pth")
    add("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--output", type=_output, help="which of several outputs of the model: a key or an index")


def add_images(parser: argparse.ArgumentParser) -> Any:
    """How the model takes images; the group, for more of the kind."""
    images = parser.add_argument_group("images", "how the model takes them, in place of the model's own transform")
    images.add_argument("--size", type=integers, help="pixels: a square's side, or height,width")
    images.add_argument("--mean", type=numbers, help="of (pixel - mean) / std: a number, or one for each channel")
    images.add_argument("--std", type=numbers, help="pixels are in 0..1")
    images.add_argument("--grey", action="store_true", help="the model takes one channel")
    return images


def add_options(parser: argparse.ArgumentParser, says: str, metavar: str) -> None:
    """The options of methods."""
    options = parser.add_argument_group("options of methods", says)
    for word, option in OPTIONS.items():
        options.add_argument(spelled(word), action="append", metavar=metavar, help=option.help)


def _output(text: str) -> str | int:
    """Which output: an index or a key."""
    return int(text) if text.lstrip("-").isdigit() else text
