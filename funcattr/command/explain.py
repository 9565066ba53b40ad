"""Explain a model's answer to a file or a text, write a picture of it, and say what was done."""

import argparse
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import verify
from ..rules.composites import COMPOSITES, rulebook_of
from ..text_tables import table
from . import pictures, saving
from .attributions import Asked, attributions_of, check_method, ready_options, shown_name, shown_of, with_usual_rules
from .classes import TOP, Target, read_classes, targets_of
from .command_error import CommandError, one_line, refusing
from .example import Sizes, answer, read_example
from .images import Photo
from .methods import OPTIONS, Chosen, chosen_methods
from .models import load_model
from .pictures import check_drawing, check_file, colored_words, write_picture
from .saving import save_attributions
from .texts import Words


def explain(args: argparse.Namespace) -> None:
    """Do what the arguments of `arguments.add_explain` say.

    Raises:
        CommandError: If it cannot be done; nothing is written then.
    """
    methods = chosen_methods(args.method or _usual(args), {word: getattr(args, word) or () for word in OPTIONS})
    _check_files(args)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked, targets, says = _question(args)
        out = args.out or (None if isinstance(asked.example.shown, Words) else Path("explanation.png"))
        if out is not None:
            check_drawing(asked.example.shown, out)
        methods = [with_usual_rules(method, asked.example.shown) for method in methods]
        for method in methods:
            check_method(method, asked)
        attributions = {method.name: _asked(method, asked, targets) for method in methods}
        _show(out, methods, asked, targets, attributions)
        if args.save:
            with refusing(f"--save {args.save}: "):
                save_attributions(args.save, says, asked.example, targets, attributions)
            _say("attributions", f"{args.save}, of the shape {_shapes(attributions)}")
        if args.verify:
            for target in targets:
                print(f"\nWhat holds for {target.name}:\n{_verified(methods, asked, target)}")
    for message in dict.fromkeys(_in_short(str(w.message)) for w in caught):
        print(f"warning: {message}", file=sys.stderr)


def _question(args: argparse.Namespace) -> tuple[Asked, list[Target], str]:
    """The model, the example and its targets, told as they become known; and what the model is called."""
    device = device_of(args.device)
    torch.manual_seed(args.seed)
    loaded = load_model(args.model, args.weights)
    module = loaded.module.to(device)
    _say("model", loaded.says)
    sizes = Sizes(args.size, args.mean, args.std, args.grey)
    example = read_example(args.file, args.text or [], loaded, device, sizes=sizes, row=args.row, columns=args.columns)
    if args.skip is not None and not isinstance(example.shown, Photo):
        raise CommandError("--skip: it is of the layers of a vision transformer. Leave it out.")
    _say("input", example.says)
    found = answer(example, module, args.output)
    classes = read_classes(args.labels) if args.labels else loaded.classes
    targets = targets_of(args.target or [TOP], found.outputs, classes)
    for target in targets:
        _say("target", f"{target.name} ({target.score})")
    if classes is not None:
        _say("names", f"from {classes.source}")
    asked = Asked(module, example, found, args.output, args.seed, not args.no_progress, args.skip)
    return asked, targets, loaded.says


def _show(
    out: Path | None,
    methods: Sequence[Chosen],
    asked: Asked,
    targets: Sequence[Target],
    attributions: Mapping[str, Tensor],
) -> None:
    """Print the words of a text, and write the picture."""
    shown = asked.example.shown
    numbers = {
        shown_name(method, shown): [shown_of(method, one[None], asked).cpu() for one in attributions[method.name]]
        for method in methods
    }
    if isinstance(shown, Words):
        _print_words(shown, numbers, targets)
    if out is not None:
        write_picture(out, shown, numbers, targets)
        _say("picture", str(out))


def _usual(args: argparse.Namespace) -> str:
    """The method, if none was said: relevance, by the rules for transformers if it is a text."""
    text = args.text or (args.file is not None and args.file.suffix.lower() == ".txt")
    return "attnlrp" if text else "lrp"


def _check_files(args: argparse.Namespace) -> None:
    if args.out:
        check_file("--out", args.out, pictures.SUFFIXES)
    if args.save:
        check_file("--save", args.save, saving.SUFFIXES)


def device_of(name: str) -> torch.device:
    """The device of a name.

    Raises:
        CommandError: If torch has none of this name here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise CommandError(
            f"--device {name}: expected a device that torch has here, cpu, say. {one_line(error)}"
        ) from error
    return device


def _asked(method: Chosen, asked: Asked, targets: Sequence[Target]) -> Tensor:
    """The method's attributions of each target. [K, ...]"""
    began = time.perf_counter()
    found = torch.cat([attributions_of(method, asked, target) for target in targets])
    _say("method", f"{method.says()} ({time.perf_counter() - began:.1f} s)")
    return found


def _print_words(shown: Words, numbers: pictures.Numbers, targets: Sequence[Target]) -> None:
    """Coloured words on a terminal; elsewhere a table, for colours are no text."""
    if sys.stdout.isatty():
        for method, colored in colored_words(shown, numbers, targets).items():
            print(f"{method}:\n{colored.ansi}")
        return
    for method, columns in numbers.items():
        rows = [(word, *(f"{float(v[i]):.4g}" for v in columns)) for i, word in enumerate(shown.words)]
        head = (method, *(target.name for target in targets))
        print(f"\n{table(head, rows, right=frozenset(range(1, len(head))))}\n")


def _in_short(message: str) -> str:
    """The first line of a message."""
    first, *rest = message.splitlines() or [""]
    return f"{first} ..." if rest else first


def _shapes(attributions: dict[str, Tensor]) -> str:
    return ", ".join(f"{list(values.shape)} ({method})" for method, values in attributions.items())


def _verified(methods: Sequence[Chosen], asked: Asked, target: Target) -> Any:
    """What holds, in the rulebook of the first method that has one of relevance, or in the usual one."""
    rules = next((found for method in methods if (found := _rules_of(method, asked)) is not None), "epsilon_plus")
    index = None if asked.answer.one else target.number
    with refusing("--verify: "):
        return verify(asked.module, asked.example.x, index, rules=rules, output=asked.output)


def _rules_of(method: Chosen, asked: Asked) -> Any:
    if method.method == "lrp":
        return ready_options(method, asked.example).get("rules")
    # The other methods of relevance have the names of their rulebooks; that of deep_lift needs a baseline.
    has_rules = method.method in COMPOSITES and rulebook_of("explain", method.method).space != "multiplier"
    return method.method if has_rules else None


def _say(what: str, text: str) -> None:
    print(f"{what + ':':<13} {text}")
