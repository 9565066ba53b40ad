"""Maps are enlarged to an image of their proportions, and to no other."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr import maps
from funcattr.show.fitting import fitted, one_map


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([7, 7], (224, 224)),
        ([8, 11], (250, 333)),
        ([7, 10], (250, 333)),
        ([1, 1], (5, 5)),
        ([5], (40,)),
        ([2, 3, 4], (4, 6, 8)),
    ],
)
def test_maps_of_the_proportions_are_resized_as_by_maps(shape: list[int], size: tuple[int, ...]) -> None:
    values = torch.randn(shape, dtype=torch.float64)
    expected = maps.resize(values[None, None], size)[0, 0]
    np.testing.assert_allclose(fitted("f", "map", values.numpy(), size), expected.numpy())


@pytest.mark.parametrize(
    ("shape", "size", "was"),
    [
        ([7, 7], (224, 336), "not proportionate"),
        ([14, 28], (224, 224), "not proportionate"),
        ([8, 8], (4, 4), "larger"),
        ([8, 4], (8, 8), "not proportionate"),
    ],
)
def test_other_maps_are_refused_with_the_way_out(shape: list[int], size: tuple[int, int], was: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^f\(map=\.\.\.\): .* which is {was}\..*maps\.resize\(map, \({size[0]}, {size[1]}\)\)"
    ):
        fitted("f", "map", np.zeros(shape), size)


def test_a_map_has_one_channel_or_none() -> None:
    values = torch.randn(1, 4, 5)
    for given in (values, values[0], values.numpy()):
        np.testing.assert_allclose(one_map("f", "map", given, 2), values[0].numpy())
    assert one_map("f", "map", torch.zeros(4, 5, dtype=torch.bool), 2).dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            [2, 1, 4, 5],
            r"^f\(map=\.\.\.\): expected one map, \[1, H, W\] or \[H, W\], got \[2, 1, 4, 5\]\. Give .*: map\[0\]",
        ),
        ([3, 4, 5], r"Reduce the channels first: funcattr\.maps\.sum"),
        ([17], r"got \[17\]\. A map of tokens .* funcattr\.maps\.from_tokens"),
        ([0, 5], r"got \[0, 5\]"),
    ],
)
def test_what_is_no_map_is_refused(shape: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_map("f", "map", torch.zeros(shape), 2)


def test_nan_says_where() -> None:
    values: Any = torch.zeros(1, 4, 5)
    values[0, 2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^f\(map=\.\.\.\): expected finite numbers, got nan at \[0, 2, 3\]"):
        one_map("f", "map", values, 2)
