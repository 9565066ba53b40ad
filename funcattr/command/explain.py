"""Explain a model's answer to a file or a text, write a picture of it, and say what was done."""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import verify
from ..text_tables import table
from . import pictures, saving
from .attributions import Asked, attributions_of, check_method, shown_of
from .classes import Target, read_classes, targets_of
from .command_error import refusing
from .example import Sizes, answer, read_example
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
    device = _device(args.device)
    torch.manual_seed(args.seed)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(args.model, args.weights)
        module = loaded.module.to(device)
        _say("model", loaded.says)
        sizes = Sizes(args.size, args.mean, args.std, args.grey)
        example = read_example(
            args.file, args.text or [], loaded, device, sizes=sizes, row=args.row, columns=args.columns
        )
        _say("input", example.says)
        found = answer(example, module, args.output)
        classes = read_classes(args.labels) if args.labels else loaded.classes
        targets = targets_of(args.target or ["top"], found.outputs, classes)
        for target in targets:
            _say("target", f"{target.name} ({target.score})")
        if classes is not None:
            _say("names", f"from {classes.source}")

        asked = Asked(module, example, found, args.output, args.seed, not args.no_progress, args.skip)
        out = args.out or (None if isinstance(example.shown, Words) else Path("explanation.png"))
        if out is not None:
            check_drawing(example.shown, out)
        for method in methods:
            check_method(method, asked)
        attributions = {method.name: _asked(method, asked, targets) for method in methods}
        shown = {
            method.name: [shown_of(method, one[None], asked).cpu() for one in attributions[method.name]]
            for method in methods
        }
        if isinstance(example.shown, Words):
            _print_words(example.shown, shown, targets)
        if out is not None:
            write_picture(out, example.shown, shown, targets)
            _say("picture", str(out))
        if args.save:
            save_attributions(args.save, loaded.says, example, targets, attributions)
            _say("attributions", f"{args.save}, of the shape {_shapes(attributions)}")
        if args.verify:
            for target in targets:
                print(f"\nWhat holds for {target.name}:\n{_verified(methods, asked, target)}")
    for message in dict.fromkeys(_in_short(str(w.message)) for w in caught):
        print(f"warning: {message}", file=sys.stderr)


def _usual(args: argparse.Namespace) -> str:
    """The method, if none was said: relevance, by the rules for transformers if it is a text."""
    text = args.text or (args.file is not None and args.file.suffix.lower() == ".txt")
    return "attnlrp" if text else "lrp"


def _check_files(args: argparse.Namespace) -> None:
    if args.out:
        check_file("--out", args.out, pictures.SUFFIXES)
    if args.save:
        check_file("--save", args.save, saving.SUFFIXES)


def _device(name: str) -> torch.device:
    with refusing(f"--device {name}: "):
        device = torch.device(name)
        torch.empty(1, device=device)
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
    columns = {f"{t.name}, {m}": values for m, rows in numbers.items() for t, values in zip(targets, rows, strict=True)}
    rows = [(word, *(f"{float(v[i]):.4g}" for v in columns.values())) for i, word in enumerate(shown.words)]
    print(table(("word", *columns), rows, right=frozenset(range(1, len(columns) + 1))))


def _in_short(message: str) -> str:
    """The first line of a message."""
    first, *rest = message.splitlines() or [""]
    return f"{first} ..." if rest else first


def _shapes(attributions: dict[str, Tensor]) -> str:
    return ", ".join(f"{list(values.shape)} ({method})" for method, values in attributions.items())


def _verified(methods: Sequence[Chosen], asked: Asked, target: Target) -> Any:
    """What holds in the rulebook that one of the methods has, or in the usual one."""
    rules = next((m.options["rules"] for m in methods if m.method == "lrp" and "rules" in m.options), "epsilon_plus")
    index = None if asked.answer.one else target.index
    with refusing("--verify: "):
        return verify(asked.module, asked.example.x, index, rules=rules, output=asked.output)


def _say(what: str, text: str) -> None:
    print(f"{what + ':':<13} {text}")
