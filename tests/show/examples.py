"""One call of each function that draws, with its tensors, for what holds of all pictures."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import funcattr
from funcattr import show


class Example(NamedTuple):
    """`draw(**tensors)` makes the figure."""

    draw: Callable[..., Any]
    tensors: dict[str, Any]

    def figure(self) -> Any:
        return self.draw(**self.tensors)


def waves(*shape: int) -> Tensor:
    """Numbers in 0..1 that depend on no generator of random numbers. Signed: `waves(...) - 0.5`."""
    count = torch.Size(shape).numel()
    return (torch.sin(torch.arange(count) * 0.7) * torch.cos(torch.arange(count) * 0.031) / 2 + 0.5).reshape(shape)


def _model() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(waves(*p.shape) - 0.4)
    return model.eval()


def conservation() -> Any:
    return funcattr.conservation(_model(), waves(1, 1, 8, 8), 1, rules="epsilon_plus")


def bottleneck_search(examples: int = 2, steps: int = 4) -> Any:
    statistics = funcattr.bottleneck.feature_statistics(_model(), waves(1000, 1, 8, 8), layer="0")
    x = waves(examples, 1, 8, 8)
    return funcattr.bottleneck.iba_search(_model(), x, 1, statistics=statistics, steps=steps, samples=2)


def mask_search(examples: int = 1, areas: tuple[float, ...] = (0.2, 0.5)) -> Any:
    options: dict[str, Any] = {"radius": 2, "spacing": 2, "perturbation": "fade", "steps": 5}
    return funcattr.masks.extremal_search(_model(), waves(examples, 1, 8, 8), 1, areas=areas, **options)


EXAMPLES: dict[str, Example] = {
    "overlay": Example(partial(show.overlay, title="a map"), {"image": waves(3, 24, 32), "map": waves(1, 6, 8) - 0.5}),
    "overlay_slices": Example(
        partial(show.overlay, slices=(0, 2, -1), title="a volume"),
        {"image": waves(1, 4, 12, 16), "map": waves(1, 2, 6, 8)},
    ),
    "grid": Example(
        lambda images, signed, unsigned: show.grid(
            images, {"signed_one": signed, "unsigned": unsigned}, titles=["first", "second image"], title="two methods"
        ),
        {"images": waves(2, 3, 16, 24), "signed": waves(2, 1, 16, 24) - 0.5, "unsigned": waves(2, 1, 4, 6)},
    ),
    "bars": Example(
        lambda attributions, x: show.bars(["age", "mass", "height"], attributions, x=x, k=2, title="one person"),
        {"attributions": torch.tensor([-0.5, 2.0, 0.25]), "x": torch.tensor([40.0, 70.5, 1.8])},
    ),
    "series": Example(
        partial(show.series, names=["left", "right"], title="two channels"),
        {"x": waves(2, 40), "attributions": waves(2, 40) - 0.5},
    ),
    "curves": Example(
        lambda gradient, random: show.curves({"gradient": gradient, "random": random}, title="deletion"),
        {"gradient": torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.3, 0.2]]), "random": torch.tensor([1.0, 0.8, 0.0])},
    ),
    "report": Example(lambda: show.report(conservation(), title="where it went"), {}),
    "history": Example(lambda: show.history(bottleneck_search(), title="two examples"), {}),
    "history_masks": Example(lambda: show.history(mask_search()), {}),
}
