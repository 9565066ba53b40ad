"""The pointing game with masks of pixels, as `torchray.benchmark.pointing_game`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .... import FuncattrError
from .datasets import VOC_CLASSES, Dataset


class PointingGame:
    """Counts how often a map's maximum lies on an object of its class, or nearer to it than a tolerance.

    Args:
        num_classes: How many classes there are.
        tolerance: In pixels: a pixel of the object is hit at a distance below it.

    Attributes:
        hits, misses: Of each class. [num_classes]

    Example:
        >>> game = PointingGame(num_classes=2, tolerance=2)
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[5:, 5:] = True
        >>> for class_id, point in ((0, (4, 4)), (0, (1, 1)), (1, (6, 6))):
        ...     game.aggregate(game.evaluate(mask, point), class_id)
        >>> game.class_accuracies, game.accuracy
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor(0.7500, dtype=torch.float64))

    References:
        Zhang et al., 2016, arXiv:1608.00507, section 4.2.
    """

    def __init__(self, num_classes: int, tolerance: float = 15) -> None:
        self.num_classes, self.tolerance = num_classes, tolerance
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.hits = torch.zeros(self.num_classes, dtype=torch.float64)
        self.misses = torch.zeros(self.num_classes, dtype=torch.float64)

    def evaluate(self, mask: Tensor, point: Any) -> int:
        """1 if some pixel of the mask lies at a distance below the tolerance from the point, else -1.

        Args:
            mask: Pixels of the object. Bool, [H, W]
            point: (u, v), the column and the row of a map's maximum. Two numbers
        """
        rows, columns = (torch.arange(length, device=mask.device) for length in mask.shape)
        squared = (rows[:, None] - float(point[1])) ** 2 + (columns - float(point[0])) ** 2
        return 1 if bool((mask.bool() & (squared < self.tolerance**2)).any()) else -1

    def aggregate(self, hit: int, class_id: int) -> None:
        """Count a result of `evaluate` for a class: a hit of 1, a miss of -1, and nothing for 0."""
        if hit not in (-1, 0, 1):
            raise FuncattrError(f"PointingGame.aggregate(hit={hit!r}): expected 1, 0 or -1.")
        self.hits[class_id] += hit == 1
        self.misses[class_id] += hit == -1

    @property
    def class_accuracies(self) -> Tensor:
        """Hits / (hits + misses) of each class, 0 of those that were not met. [num_classes]"""
        return self.hits / (self.hits + self.misses).clamp(min=1)

    @property
    def accuracy(self) -> Tensor:
        """The mean over all classes, those that were not met among them. []"""
        return self.class_accuracies.mean()

    def __str__(self) -> str:
        each = " ".join(f"{c}:{100 * a:4.1f}%" for c, a in enumerate(self.class_accuracies.tolist()))
        return f"{100 * self.accuracy:4.1f}% [{each}]"


class PointingGameBenchmark(PointingGame):
    """The pointing game on a data set of detections.

    An image of VOC does not count for a class whose objects are all marked as difficult there.

    Args:
        dataset: A `VOCDetection` or `CocoDetection`.
        tolerance: As in `PointingGame`.
        difficult: Count an image only if the objects of the class cover less than a quarter of it, and it has another
            class: the subset of Zhang et al. TorchRay reads it from a list, which may be given as `difficult_flags`.

    Attributes:
        difficult_flags: `{name of an image: [for each class, whether it counts]}`; images that it has not are counted.
    """

    def __init__(self, dataset: Dataset, tolerance: float = 15, difficult: bool = False) -> None:
        super().__init__(len(dataset.classes), tolerance)
        self.dataset, self.difficult = dataset, difficult
        self.difficult_flags: Mapping[str, Sequence[bool]] | None = None

    def evaluate(self, label: Any, class_id: int, point: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """1 for a hit, -1 for a miss, 0 if the image does not count.

        Args:
            label: Of the image, as the data set gives it.
            class_id: The class.
            point: (u, v), the column and the row of the map's maximum, in pixels of the original image. Two numbers
        """
        mask = self.dataset.as_mask(label, class_id)
        if (self.difficult and not self._is_difficult(label, class_id, mask)) or _is_marked(label, class_id):
            return 0
        return super().evaluate(mask, point)

    def _is_difficult(self, label: Any, class_id: int, mask: Tensor) -> bool:
        if self.difficult_flags is not None:
            flags = self.difficult_flags.get(self.dataset.as_image_name(label))
            return flags is None or bool(flags[class_id])
        return bool(mask.double().mean() < 0.25) and set(self.dataset.as_class_ids(label)) != {class_id}


def _is_marked(label: Any, class_id: int) -> bool:
    """Whether a label of VOC marks all objects of a class as difficult."""
    if isinstance(label, list):
        return False
    found = [each for each in label["annotation"]["object"] if each["name"] == VOC_CLASSES[class_id]]
    return all(each.get("difficult", "0") == "1" for each in found)
