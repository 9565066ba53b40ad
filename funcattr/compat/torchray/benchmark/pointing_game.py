"""The pointing game with masks of pixels, as `torchray.benchmark.pointing_game`."""

import torch
from torch import Tensor

from .... import FuncattrError
from .datasets import Dataset


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
        ...     game.accumulate(game.evaluate(mask, point), class_id)
        >>> game.class_accuracies, game.accuracy
        (tensor([0.5000, 1.0000], dtype=torch.float64), 0.75)

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

    def evaluate(self, mask: Tensor, point: tuple[int, int]) -> int:
        """1 if some pixel of the mask lies at a distance below the tolerance from the point, else -1.

        Args:
            mask: Pixels of the object. Bool, [H, W]
            point: (row, column), of a map's maximum.
        """
        rows, columns = (torch.arange(length, device=mask.device) for length in mask.shape)
        squared = (rows[:, None] - point[0]) ** 2 + (columns - point[1]) ** 2
        return 1 if bool((mask.bool() & (squared < self.tolerance**2)).any()) else -1

    def accumulate(self, hit: int, class_id: int) -> None:
        """Count a result of `evaluate` for a class: a hit of 1, a miss of -1, and nothing for 0."""
        if hit not in (-1, 0, 1):
            raise FuncattrError(f"PointingGame.accumulate(hit={hit!r}): expected 1, 0 or -1.")
        self.hits[class_id] += hit == 1
        self.misses[class_id] += hit == -1

    @property
    def class_accuracies(self) -> Tensor:
        """Hits / (hits + misses) of each class, NaN of those that were not met. [num_classes]"""
        return self.hits / (self.hits + self.misses)

    @property
    def accuracy(self) -> float:
        """The mean over the classes that were met."""
        return self.class_accuracies.nanmean().item()

    def __str__(self) -> str:
        return f"{100 * self.accuracy:4.1f}%: " + " ".join(f"{100 * a:4.1f}" for a in self.class_accuracies.tolist())


class PointingGameBenchmark(PointingGame):
    """The pointing game on a data set of detections.

    Args:
        dataset: A `VOCDetection` or `CocoDetection`.
        tolerance: As in `PointingGame`.
        difficult: Count an image only if the objects of the class cover less than a quarter of it, and it has another
            class.
    """

    def __init__(self, dataset: Dataset, tolerance: float = 15, difficult: bool = False) -> None:
        super().__init__(len(dataset.classes), tolerance)
        self.dataset, self.difficult = dataset, difficult

    def evaluate(self, label: object, class_id: int, point: tuple[int, int]) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """1 for a hit, -1 for a miss, 0 if the image does not count.

        Args:
            label: Of the image, as the data set gives it.
            class_id: The class.
            point: (row, column) of the map's maximum, in pixels of the original image.
        """
        mask = self.dataset.mask(label, class_id)
        others = set(self.dataset.class_ids(label)) - {class_id}
        if self.difficult and (mask.double().mean() >= 0.25 or not others):
            return 0
        return super().evaluate(mask, point)
