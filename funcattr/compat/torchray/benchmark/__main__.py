"""The pointing game of a method on a folder: `python -m funcattr.compat.torchray.benchmark --help`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .... import FuncattrError
from ..attribution.common import get_pointing_gradient
from ..attribution.deconvnet import deconvnet
from ..attribution.excitation_backprop import contrastive_excitation_backprop, excitation_backprop
from ..attribution.extremal_perturbation import extremal_perturbation
from ..attribution.grad_cam import grad_cam
from ..attribution.gradient import gradient
from ..attribution.guided_backprop import guided_backprop
from ..attribution.linear_approx import linear_approx
from ..attribution.rise import rise_class
from .datasets import get_dataset
from .models import get_transform
from .pointing_game import PointingGameBenchmark

AT_A_LAYER = {
    "gradient": gradient,
    "deconvnet": deconvnet,
    "guided_backprop": guided_backprop,
    "grad_cam": grad_cam,
    "linear_approx": linear_approx,
    "excitation_backprop": excitation_backprop,
}
SMOOTH = {"gradient": 0.02, "deconvnet": 0.02, "guided_backprop": 0.02, "extremal_perturbation": 0.09}
"""The smoothing of maps in TorchRay's benchmark, as a share of the larger side."""

METHODS = (*AT_A_LAYER, "contrastive_excitation_backprop", "rise", "extremal_perturbation", "center")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the game, and print the accuracies of all and of the difficult images; 0 if it went well."""
    options = _parser().parse_args(arguments)
    try:
        model = _model(options.model).eval().to(options.device)
        # The transform is applied here, since the game needs the size of the original image.
        dataset = get_dataset(options.dataset, options.subset, options.root, options.annotations, None, options.limit)
        games = {
            word: PointingGameBenchmark(dataset, options.tolerance, difficult=word == "difficult")
            for word in ("all", "difficult")
        }
        # RISE's masks are squares.
        transform = get_transform(size=(options.size, options.size) if options.method == "rise" else options.size)
        for index in range(len(dataset)):
            image, label = dataset[index]
            x = transform(image)[None].to(options.device)
            for class_id in dataset.as_class_ids(label):
                map = saliency_of(options, model, x, class_id, image.size)
                row, column = divmod(int(map.flatten().argmax()), map.shape[-1])
                point = (column, row)
                for game in games.values():
                    game.aggregate(game.evaluate(label, class_id, point), class_id)
    except FuncattrError as error:
        print(error, file=sys.stderr)
        return 2
    for word, game in games.items():
        counts = game.hits + game.misses
        mean = game.class_accuracies[counts > 0].mean()
        print(f"{options.method} on {options.dataset} {options.subset}, {word}: {mean:.1%}, the mean over its classes")
        for name, accuracy, count in zip(dataset.classes, game.class_accuracies, counts, strict=True):
            if count:
                print(f"  {name}: {accuracy:.1%} of {count:.0f}")
    return 0


def saliency_of(options: Any, model: nn.Module, x: Tensor, class_id: int, size: tuple[int, int]) -> Tensor:
    """The map of a class at the size (width, height) of the original image. [H, W]"""
    if options.method == "center":
        width, height = size
        rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
        return -(rows[:, None] ** 2 + columns**2)
    smooth = SMOOTH.get(options.method, 0.0) if options.smooth is None else options.smooth
    if options.method == "rise":
        map = rise_class(model, x, target=class_id, num_masks=options.samples, resize=size)
    elif options.method == "extremal_perturbation":
        shares = (0.018, 0.025, 0.05, 0.1) if options.dataset == "coco" else (0.025, 0.05, 0.1, 0.2)
        found, _ = extremal_perturbation(model, x, class_id, shares, max_iter=options.steps, resize=size, smooth=smooth)
        map = found.sum(0, keepdim=True)
    elif options.method == "contrastive_excitation_backprop":
        _required(options, "layer", "contrast_layer")
        seed: Any = get_pointing_gradient
        map = contrastive_excitation_backprop(
            model, x, class_id, options.layer, options.contrast_layer, resize=size, get_backward_gradient=seed
        )
    else:
        if options.method == "grad_cam":
            _required(options, "layer")
        method: Callable[..., Any] = AT_A_LAYER[options.method]
        map = method(
            model,
            x,
            class_id,
            saliency_layer=options.layer or "",
            resize=size,
            smooth=smooth,
            get_backward_gradient=get_pointing_gradient,
        )
    return map[0, 0].cpu()


def _required(options: Any, *names: str) -> None:
    for name in names:
        if getattr(options, name) is None:
            raise FuncattrError(f"--method {options.method}: it needs --{name.replace('_', '-')}, a module.")


def _model(name: str) -> nn.Module:
    """The module that `package.module:function` makes."""
    home, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(home), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise FuncattrError(f"--model {name}: expected package.module:function. {error}.") from error
    model = make()
    if not isinstance(model, nn.Module):
        raise FuncattrError(f"--model {name}: expected that it returns a module, got {type(model).__name__}.")
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m funcattr.compat.torchray.benchmark",
        description="The pointing game: how often a map's maximum lies on an object of the class that it explains.",
    )
    parser.add_argument("root", help="folder with the data set")
    parser.add_argument("--model", required=True, help="package.module:function, which makes the network")
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--dataset", default="voc_2007", help="voc_2007 (the default), another year, or coco")
    parser.add_argument("--subset", default="test", help="list of images: test (the default), val2014, ...")
    parser.add_argument("--annotations", help="of COCO: folder with instances_<subset>.json")
    parser.add_argument("--layer", help="module at which the map is made; the input by default")
    parser.add_argument("--contrast-layer", help="of contrastive excitation backprop")
    parser.add_argument("--smooth", type=float, help="Gaussian, as a share of the larger side; TorchRay's by default")
    parser.add_argument("--samples", type=int, default=8000, help="masks of rise")
    parser.add_argument("--steps", type=int, default=800, help="of extremal perturbation")
    parser.add_argument("--size", type=int, default=224, help="smaller side of the images in pixels; rise: both")
    parser.add_argument("--tolerance", type=float, default=15, help="in pixels of the original image")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
