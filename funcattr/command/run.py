"""A method over a folder of images, into files that a run which was cut off goes on with."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import scale
from .attributions import Asked, check_method, ready_options, with_usual_rules
from .classes import TOP, read_classes, targets_of
from .command_error import CommandError, refusing
from .example import Example, Sizes, answer, read_example, transform_of
from .explain import device_of
from .images import Transform, read_photo
from .loaded import Loaded
from .methods import OPTIONS, chosen_methods
from .models import load_model

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class _Photos:
    """The images of a folder as the model takes them; one that cannot be read is an error of its row."""

    def __init__(self, folder: Path, transform: Transform) -> None:
        with refusing():
            self.ids = scale.ImageFolder(folder, transform.apply).ids
        self.folder, self.transform = folder, transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor:
        return read_photo(self.folder / self.ids[index], self.transform)[0][0]


def run(args: argparse.Namespace) -> None:
    """Do what the arguments of `run_arguments.add_run` say.

    Raises:
        CommandError: If it cannot be done.
    """
    methods = chosen_methods(args.method, {word: getattr(args, word) or () for word in OPTIONS})
    if len(methods) != 1:
        raise CommandError(
            f"--method {args.method}: expected one method, for a run has one folder. Run each by itself."
        )
    device = device_of(_card(args.device))
    torch.manual_seed(args.seed)
    loaded = load_model(args.model, args.weights)
    module = loaded.module.to(device)
    sizes = Sizes(args.size, args.mean, args.std, args.grey)
    folder = Path(args.folder)
    if not folder.is_dir():
        raise CommandError(f"{folder}: expected a folder of images.")
    photos = _Photos(folder, transform_of(folder, loaded, sizes))
    example = _first(photos, loaded, device, sizes)
    found = answer(example, module, args.output)
    classes = read_classes(args.labels) if args.labels else loaded.classes
    targets = targets_of([args.target], found.outputs, classes)
    if len(targets) != 1:
        raise CommandError(f"--target {args.target}: expected one target, for a run has one folder.")
    method = with_usual_rules(methods[0], example.shown)
    check_method(method, Asked(module, example, found, args.output, args.seed, False, None))
    options = ready_options(method, example) | ({} if args.output is None else {"output": args.output})
    says = method.says()
    target: Any = TOP if args.target == TOP else targets[0].number
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first:
        print(f"model:        {loaded.says}\nmethod:       {says}")
        print(f"target:       {TOP if target == TOP else targets[0].name}")
    with refusing():
        results = scale.run(
            method.name,
            module,
            photos,
            args.out,
            target=None if found.one else target,
            options=options,
            seed=args.seed,
            shard_size=args.shard_size,
            batch_size=args.batch_size,
            dtype=_DTYPES[args.dtype],
            files=args.files,
            as_map=args.as_map,
            max_errors=args.max_errors,
            engine=args.engine,
            workers=args.workers,
            progress=is_first and not args.no_progress,
        )
        _report(results, args.out)


def _report(results: scale.Results, out: Path) -> None:
    errors = results.errors
    missing = f"; {len(results.missing)} shards are other processes' or missing" if results.missing else ""
    print(f"attributions: {out}, {len(results) - len(errors)} of {len(results)} images{missing}")
    for name, text in list(errors.items())[:5]:
        print(f"failed:       {name}: {text}", file=sys.stderr)
    if len(errors) > 5:
        print(f"failed:       and {len(errors) - 5} more: the column error of the files", file=sys.stderr)


def _card(device: str) -> str:
    """Under torchrun each process has a card of its own."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


def _first(photos: _Photos, loaded: Loaded, device: torch.device, sizes: Sizes) -> Example:
    """The first image that can be read, of which it is told whether the method can be asked at all."""
    said: CommandError | None = None
    for name in photos.ids[:20]:
        try:
            return read_example(photos.folder / name, [], loaded, device, sizes=sizes, row=None, columns=None)
        except CommandError as error:
            said = said or error
    assert said is not None
    raise said
