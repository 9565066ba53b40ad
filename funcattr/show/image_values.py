"""The values of an image as shades of grey or colour in 0..1, whichever of the usual ranges they come in."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from .arrays import Numbers, as_array, finite

Channels = Literal["first", "last"]
"""Where an image has its channels: [C, H, W] or [H, W, C]."""

Each = float | Sequence[float] | Numbers
"""One number, or one for each channel."""

_ROUNDING = 0.01
"""How far beyond the ends of its range a value may lie and be rounded to it: half precision is no finer."""


class ImageOptions(NamedTuple):
    """How the values of an image are to be read; as the arguments of `overlay`."""

    channels: Channels
    range: tuple[float, float] | None
    mean: Each | None
    std: Each | None


def shades(call: str, name: str, image: Numbers, options: ImageOptions, rank: int = 2) -> np.ndarray:
    """An image as matplotlib takes it, in 0..1.

    Args:
        call, name: Of the argument, for errors.
        image: [C, *spatial] or [*spatial, C] with 1 or 3 channels, or [*spatial], which is grey.
        options: How its values are to be read.
        rank: Number of spatial dimensions.

    Returns:
        Grey [*spatial] or colour [*spatial, 3], in 0..1.
    """
    raw = as_array(call, name, image)
    values = _in_unit_range(call, name, _channels_last(call, name, raw, options.channels, rank), options)
    return values[..., 0] if values.shape[-1] == 1 else values


def _channels_last(call: str, name: str, values: np.ndarray, channels: Channels, rank: int) -> np.ndarray:
    """[*spatial, 1 or 3]"""
    if channels not in get_args(Channels):
        raise ValueError(f"{call}(channels={channels!r}): expected 'first', [C, H, W], or 'last', [H, W, C].")
    shape = list(values.shape)
    if values.ndim == rank and 0 not in shape:
        return values[..., None]
    axis = 0 if channels == "first" else -1
    if values.ndim == rank + 1 and shape[axis] in (1, 3) and 0 not in shape:
        return np.moveaxis(values, axis, -1)
    space = {1: "T", 2: "H, W", 3: "D, H, W"}[rank]
    expected = f"[C, {space}]" if channels == "first" else f"[{space}, C]"
    if values.ndim == rank + 2:
        fix = f"Give one image of the batch: {name}[0]."
    elif values.ndim == rank + 1 and shape[-1 - axis] in (1, 3):
        fix = f"Are its channels {'last' if axis == 0 else 'first'}? Say channels={'last' if axis == 0 else 'first'!r}."
    else:
        fix = f"Pick or mix channels first; grey images may also be [{space}]."
    raise ValueError(
        f"{call}({name}=..., channels={channels!r}): expected {expected} with 1 or 3 channels, got {shape}. {fix}"
    )


def _in_unit_range(call: str, name: str, values: np.ndarray, options: ImageOptions) -> np.ndarray:
    """Values in 0..1, by the range or the normalisation that was said, or by the dtype."""
    kind, low_high, normalized = values.dtype.kind, options.range, not (options.mean is None and options.std is None)
    values = finite(call, name, values)
    if normalized and low_high is not None:
        raise ValueError(f"{call}(range=..., mean=..., std=...): expected a range or a normalisation, got both.")
    if normalized:
        if options.mean is None or options.std is None:
            raise ValueError(
                f"{call}(mean=..., std=...): expected both, got one. Images are taken as (x - mean) / std."
            )
        channels = values.shape[-1]
        values = values * _each(call, "std", options.std, channels) + _each(call, "mean", options.mean, channels)
        low, high, said = 0.0, 1.0, "0..1 after x * std + mean"
        fix = "Are these the mean and std that it was normalised with?"
    elif low_high is not None:
        low, high = (float(end) for end in low_high)
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"{call}(range={low_high!r}): expected (low, high) with low < high.")
        said, fix = f"{low:g}..{high:g}", "Give the range that it is in."
    elif kind in "iu":
        low, high, said, fix = 0.0, 255.0, "integers in 0..255", "For another range say range=(low, high)."
    elif kind == "f":
        low, high, said = 0.0, 1.0, "floats in 0..1"
        fix = (
            "If it is normalised, say mean= and std=; if it is in another range, range=(low, high): (0, 255), say. "
            "What interpolation has pushed beyond: image.clamp(0, 1)."
        )
    else:
        raise TypeError(f"{call}({name}=...): expected integers or floats, got booleans. For a mask: {name}.float().")
    least, most, slack = values.min(), values.max(), _ROUNDING * (high - low)
    if least < low - slack or most > high + slack:
        raise ValueError(f"{call}({name}=...): expected {said}, got {least:.4g}..{most:.4g}. {fix}")
    return ((values - low) / (high - low)).clip(0, 1)


def _each(call: str, name: str, numbers: Each, channels: int) -> np.ndarray:
    """A number, or one for each channel. [] or [C]"""
    values = np.squeeze(finite(call, name, np.asarray(numbers) if isinstance(numbers, float | int) else numbers))
    if values.shape not in ((), (channels,)):
        raise ValueError(
            f"{call}({name}=...): expected one number or one for each of the {channels} channels, got shape "
            f"{list(values.shape)}."
        )
    return values
