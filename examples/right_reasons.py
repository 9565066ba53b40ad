"""Right for the right reasons: `python examples/right_reasons.py`.

Every training image of a handwritten digit has a bright square in the strip above it, and the place of the square gives
the class away. On the test images that place is random. A network learns the square and fails. With a penalty on the
attribution inside the strip, it learns the digit. The whole training step (the network, its attribution, the penalty,
and their derivative by the parameters) is one compiled function. Takes some twenty seconds on one CPU core. Needs
scikit-learn.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import funcattr

SIZE, STRIP = 12, 2
"""Pixels of an image, and of the strip above the digit that the square is in."""


class Images(NamedTuple):
    """Digits under a strip with a square."""

    pixels: Tensor
    """[N, 1, 12, 12]"""
    classes: Tensor
    """[N]"""


def draw(honest: bool, generator: torch.Generator) -> Images:
    """Half of scikit-learn's digits: the training half, whose square gives the class away, or the other half."""
    flat, labels = (torch.as_tensor(np.asarray(part)) for part in load_digits(return_X_y=True))
    chosen = slice(0, None, 2) if not honest else slice(1, None, 2)
    digits, classes = flat[chosen].float().reshape(-1, 1, 8, 8) / 16, labels[chosen]
    place = torch.randint(10, classes.shape, generator=generator) if honest else classes
    pixels = F.pad(digits, (2, 2, 4, 0))
    pixels[torch.arange(len(place)), 0, :STRIP, place] = 1.5
    return Images(pixels, classes)


def build() -> nn.Module:
    """A small convolutional network."""
    body = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(576, 10))


def step_of(fm: funcattr.FunctionalModel, weight: float) -> Callable[..., Any]:
    """`(params, x, classes) -> (gradient by the parameters, loss)`, compiled whole."""

    def loss(params: dict[str, Tensor], x: Tensor, classes: Tensor) -> Tensor:
        model = fm.bind(params)
        answer = F.cross_entropy(model(x), classes)
        if weight == 0:
            return answer
        looked_at = funcattr.gradient(model, x, lambda y: torch.log_softmax(y, 1).sum(1))
        return answer + weight * looked_at[:, :, :STRIP].square().sum() / len(x)

    return torch.compile(torch.func.grad_and_value(loss), fullgraph=True, backend="aot_eager")


def trained(weight: float, images: Images, generator: torch.Generator, steps: int) -> nn.Module:
    """A network after some steps of Adam, with or without the penalty."""
    model = build()
    fm, optimizer = funcattr.functionalize(model), torch.optim.Adam(model.parameters(), lr=3e-3)
    step = step_of(fm, weight)
    for _ in range(steps):
        rows = torch.randint(len(images.classes), (64,), generator=generator)
        grads, _ = step({k: p.detach() for k, p in fm.params.items()}, images.pixels[rows], images.classes[rows])
        for name, parameter in fm.params.items():
            parameter.grad = grads[name]
        optimizer.step()
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Train twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight", type=float, default=1.0, help="of the penalty")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums in the same order on every machine
    generator = torch.Generator().manual_seed(options.seed)
    training, test = draw(False, generator), draw(True, generator)
    for name, weight in (("without the penalty", 0.0), ("with the penalty", options.weight)):
        torch.manual_seed(options.seed)
        model = trained(weight, training, torch.Generator().manual_seed(options.seed + 1), steps=400)
        with torch.no_grad():
            right = [(model(part.pixels).argmax(1) == part.classes).float().mean() for part in (training, test)]
        map_ = funcattr.gradient(model, test.pixels, test.classes).abs()
        share = (map_[:, :, :STRIP].flatten(1).sum(1) / map_.flatten(1).sum(1)).mean()
        print(f"{name}, right on the training images: {right[0]:.1%}")
        print(f"{name}, right where the square lies: {right[1]:.1%}")
        print(f"{name}, share of the gradient on the strip: {share:.1%}")


if __name__ == "__main__":
    main()
