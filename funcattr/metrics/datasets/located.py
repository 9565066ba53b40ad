"""Questions whose right answer is a place."""

from typing import NamedTuple

from torch import Tensor, nn


class Located(NamedTuple):
    """A model, inputs, and the place in each input that decides: `pointing_game(maps, found.regions)`.

    Methods are called as `method(found.model, found.x, found.target)`; those at a layer with `layer=found.layer`.
    """

    model: nn.Module
    """In evaluation mode, on the CPU."""
    x: Tensor
    """Its inputs. [N, ...]"""
    target: Tensor
    """The class that is asked for. [N]"""
    regions: Tensor
    """Where the answer is: boxes (top, left, bottom, right), ends exclusive, [N, 4]; or which pixels are right, bool,
    [N, 1, H, W]; or which words, bool, as a map of one row, [N, 1, T]."""
    layer: str
    """A site for methods that ask for one: of images for maps such as Grad-CAM's, of words their embeddings."""
    things: tuple[str, ...]
    """What is asked for, in words. N"""
