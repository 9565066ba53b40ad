"""A network with planted triggers, constructed by hand, and images full of parts of them."""

from itertools import permutations

import torch
from torch import Tensor, nn

from ...sampling import draws
from ...sampling.draws import Generator, seed_from
from ...sampling.loops import positive
from .located import Located

PARTS = torch.tensor(
    [
        [[1, -1, -1, 1], [1, 1, -1, -1], [1, 1, -1, 1], [-1, 1, -1, -1]],
        [[-1, 1, -1, 1], [1, -1, -1, -1], [1, -1, -1, -1], [1, 1, 1, 1]],
        [[1, 1, -1, 1], [-1, -1, -1, 1], [-1, 1, 1, 1], [-1, 1, -1, -1]],
        [[1, -1, -1, -1], [1, -1, -1, 1], [-1, 1, -1, 1], [1, -1, 1, 1]],
    ],
    dtype=torch.float32,
)
"""Each correlates with itself to 16 pixels, and to at most 8 with any other place of any pattern. [4, 4, 4]"""

TRIGGERS = ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2))
"""The classes' patterns: which part is top left, top right, bottom left, bottom right."""

DISTRACTORS = tuple(p for p in permutations(range(4)) if p not in TRIGGERS)
"""All other patterns of the four parts; half of the parts of each are where those of some trigger are, at most."""

SIDE, PLACES, CELL, PATTERN = 48, 4, 12, 8
"""In pixels: images; places along a side; a place; a pattern."""


class TriggerNet(nn.Module):
    """Says which triggers are in an image: four logits, above 0 if and only if the trigger is there.

    The first convolution finds the parts, the second one their arrangements, a value of 1 at a trigger. A trigger
    speaks for its class, and a little against the others.
    """

    def __init__(self) -> None:
        super().__init__()
        count = len(TRIGGERS)
        self.parts, self.found_parts = nn.Conv2d(1, len(PARTS), 4), nn.ReLU()
        self.arrangements, self.found = nn.Conv2d(len(PARTS), count, 2, dilation=4), nn.ReLU()
        self.classifier = nn.Linear(count, count)

        places = torch.zeros(count, len(PARTS), 2, 2)
        for number, pattern in enumerate(TRIGGERS):
            for place, part in enumerate(pattern):
                places[number, part, place // 2, place % 2] = 1.0
        self.parts.weight, self.parts.bias = nn.Parameter(PARTS[:, None] / 4), nn.Parameter(torch.full((4,), -3.0))
        self.arrangements.weight = nn.Parameter(places)
        self.arrangements.bias = nn.Parameter(torch.full((count,), -3.0))
        self.classifier.weight = nn.Parameter(1.25 * torch.eye(count) - 0.25)
        self.classifier.bias = nn.Parameter(torch.full((count,), -0.25))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, 4]"""
        parts = self.found_parts(self.parts(x))
        found = self.found(self.arrangements(parts))
        return self.classifier(found.sum((2, 3)))


def trigger(*, samples: int = 100, generator: Generator = 0) -> Located:
    """A network with planted triggers and cluttered images: which 8 x 8 pixels make the class fire?

    An image has two triggers, of different classes, and one of them is asked for. It has six distractors too, made of
    the very parts of the triggers in another order. So parts, edges and energy say nothing, and a map that does not
    ask for the class finds the right trigger in half of the images.

    Args:
        samples: Number of images N.
        generator: Seed, or generator, of the images; an image is the same whatever the number of others.

    Returns:
        A `TriggerNet` and images [N, 1, 48, 48] of patterns of 1 and -1 in weak noise on 0. The target's logit is above
        0, and below 0 once the region, a mask of the trigger's pixels, is 0. A square beside it has no such effect.

    Raises:
        ValueError: If `samples` < 1.

    Example:
        >>> import funcattr
        >>> model, x, target, regions, *_ = trigger(samples=20)
        >>> found = funcattr.maps.sum(funcattr.input_x_gradient(model, x, target))
        >>> funcattr.metrics.pointing_game(found, regions).all()
        tensor(True)
    """
    numbers, seed = torch.arange(positive("trigger", "samples", samples)), seed_from("trigger", generator)
    images = 0.2 * draws.uniform(numbers, (1, SIDE, SIDE), PARTS, seed) - 0.1
    regions = torch.zeros_like(images, dtype=torch.bool)

    patterns = (*TRIGGERS, *DISTRACTORS)
    classes = draws.permutations(numbers, len(TRIGGERS), seed=seed, stream=1)[:, :2]
    others = draws.permutations(numbers, len(DISTRACTORS), seed=seed, stream=2)[:, :6] + len(TRIGGERS)
    kinds = torch.cat([classes, others], 1)  # [N, 8]
    places = draws.permutations(numbers, PLACES * PLACES, seed=seed, stream=3)
    shifts = draws.integers(numbers, CELL - PATTERN + 1, (kinds.shape[1], 2), seed=seed, stream=4)
    for n in range(len(images)):
        for k, kind in enumerate(kinds[n].tolist()):
            top, left = (CELL * p + s for p, s in zip(divmod(int(places[n, k]), PLACES), shifts[n, k].tolist()))
            box = (n, 0, slice(top, top + PATTERN), slice(left, left + PATTERN))
            images[box] += PARTS[list(patterns[kind])].unflatten(0, (2, 2)).transpose(1, 2).reshape(PATTERN, PATTERN)
            regions[box] |= k == 0

    target = classes[:, 0]
    things = tuple(f"trigger {number}" for number in target.tolist())
    with torch.random.fork_rng(devices=[]):  # the layers begin with random weights
        model = TriggerNet().eval()
    return Located(model, images, target, regions, "found", things)
