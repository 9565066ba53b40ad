"""Copies of images whose channels lie last in memory have them so too."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import maps, metrics
from funcattr.testing.seeding import settle, uniform

SEEN: list[bool] = []  # calls copy what a module holds


class Seeing(nn.Module):
    """Notes whether its inputs have their channels last."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.conv, self.out = (nn.Conv2d, nn.Conv3d)[rank - 2](3, 4, 3), nn.Linear(4, 2)
        self.format = (torch.channels_last, torch.channels_last_3d)[rank - 2]

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(x.is_contiguous(memory_format=self.format))
        return self.out(self.conv(x).relu().flatten(2).mean(2))


MEASURES: dict[str, Any] = {
    "deletion": lambda m, x, a: metrics.deletion(m, x, 1, a, steps=6).scores,
    "insertion": lambda m, x, a: metrics.insertion(m, x, 1, a, steps=6).scores,
    "infidelity": lambda m, x, a: metrics.infidelity(m, x, 1, a, sigma=0.1, samples=9),
    "occlusion": lambda m, x, a: funcattr.occlusion(m, x, 1, window=(3,) * (x.ndim - 2), stride=3),
    "rise": lambda m, x, a: funcattr.rise(m, x, 1, samples=10),
}


@pytest.mark.parametrize(
    ("name", "rank"), [*((name, 2) for name in MEASURES), ("deletion", 3), ("infidelity", 3), ("occlusion", 3)]
)
def test_copies_lie_as_the_images_do_and_give_the_same(name: str, rank: int) -> None:
    model = settle(lambda: Seeing(rank))
    assert isinstance(model, Seeing)
    x = uniform(2, 3, *(6,) * rank)
    a = maps.sum(x)
    SEEN.clear()
    expected = MEASURES[name](model, x, a)
    assert not any(SEEN)
    SEEN.clear()
    found = MEASURES[name](model, x.contiguous(memory_format=model.format), a)
    assert SEEN and all(SEEN)
    torch.testing.assert_close(found, expected)
