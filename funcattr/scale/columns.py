"""What the files of a run hold of an example."""

from typing import Any, NamedTuple

import torch

from .examples import Failure
from .rows import RowOf


class Columns(NamedTuple):
    """The columns of a run's files.

    Attributes:
        ids: "int" or "str".
        target: "int", "tuple" or "NoneType" (a function).
        shapes: Of one example's attributions, by column; of ragged ones the shape of the first.
        dtype: Of the attributions.
        ragged: Whether shapes differ from example to example.
    """

    ids: str
    target: str
    shapes: dict[str, list[int]]
    dtype: torch.dtype
    ragged: bool

    def check(self, row: RowOf) -> RowOf:
        """The row, or its failure where it does not fit the columns."""
        if row.failure is not None:
            return row._replace(attributions={}, target=row.target if self._fits(row.target) else None)
        shapes = {name: [*part.shape] for name, part in row.attributions.items()}
        if shapes == self.shapes and self._fits(row.target):
            return row
        if shapes.keys() != self.shapes.keys():
            return self._unfit(row, f"attributions {sorted(self.shapes)}", str(sorted(shapes)))
        if not self.ragged and shapes != self.shapes:
            return self._unfit(row, f"the shapes {self.shapes} of the run", f"{shapes}. Shapes differ with ragged=True")
        if not self._fits(row.target):
            return self._unfit(row, f"a target of the kind {self.target}, as the first", repr(row.target))
        return row

    def _fits(self, target: Any) -> bool:
        return target is None or type(target).__name__ == self.target

    def _unfit(self, row: RowOf, expected: str, got: str) -> RowOf:
        return RowOf({}, None, row.score, Failure(ValueError(f"expected {expected}, got {got}")))
