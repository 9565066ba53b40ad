"""TorchRay's classes around extremal perturbation's masks: the generator of masks and the perturbed inputs."""

import math

import torch
from torch import Tensor

from .... import FuncattrError, masks

BLUR_PERTURBATION = "blur"
"""What is hidden is blurred."""
FADE_PERTURBATION = "fade"
"""What is hidden is black."""


class MaskGenerator:
    """Smooth masks of a grid of parameters, `funcattr.masks.smooth_mask`.

    Args:
        shape: Of the masks, (H, W).
        step: Pixels between parameters.
        sigma: Radius of the kernel, in pixels.
        clamp: Whether values outside [0, 1] become 0 or 1.
        pooling_method: "softmax", a smooth maximum of the parameters around a pixel, or their "sum".

    Attributes:
        shape_in: Of the parameters: one for each `step` pixels.
        margin: Pixels of the canvas around the image, on each side.

    Raises:
        FuncattrError: If `pooling_method` is another, TorchRay's "sigmoid" too.

    Example:
        >>> generator = MaskGenerator((224, 224), step=7, sigma=21)
        >>> mask, canvas = generator.generate(torch.ones(1, 1, *generator.shape_in))
        >>> mask.shape, canvas.shape
        (torch.Size([1, 1, 224, 224]), torch.Size([1, 1, 260, 260]))
    """

    def __init__(
        self, shape: tuple[int, int], step: int, sigma: float, clamp: bool = True, pooling_method: str = "softmax"
    ) -> None:
        if pooling_method not in ("softmax", "sum"):
            raise FuncattrError(
                f"MaskGenerator(pooling_method={pooling_method!r}): expected 'softmax', which extremal perturbation "
                "uses, or 'sum'. For another one pool the sum: generate(...) with 'sum' and clamp=False."
            )
        self.shape, self.step, self.sigma = (shape[0], shape[1]), step, sigma
        self.clamp, self.pooling_method = clamp, pooling_method
        self.shape_in = (math.ceil(shape[0] / step), math.ceil(shape[1] / step))
        self.margin = round(sigma)

    def generate(self, mask_in: Tensor) -> tuple[Tensor, Tensor]:
        """The masks of some parameters, and the canvas around them on which areas are measured.

        Args:
            mask_in: Parameters in [0, 1]. [K, 1, *shape_in]

        Returns:
            The masks [K, 1, H, W] and their canvases [K, 1, H', W'].
        """
        canvas = masks.smooth_mask(
            mask_in,
            self.shape,
            spacing=self.step,
            radius=self.sigma,
            on="canvas",
            pooling="sum" if self.pooling_method == "sum" else "softmax",
            clamp=self.clamp,
        )
        return masks.crop(canvas, self.shape, radius=self.sigma), canvas

    def to(self, dev: torch.device | str) -> "MaskGenerator":
        """Itself: masks are made where their parameters are."""
        return self


class Perturbation:
    """An input at increasing strengths of a perturbation, and copies of it perturbed by masks.

    Args:
        input: One image. [1, C, H, W]
        num_levels: L, how many strengths.
        max_blur: Standard deviation of the strongest blur, in pixels.
        type: "blur" or "fade".

    Attributes:
        pyramid: From the most perturbed input to the input itself. [L, C, H, W]

    Raises:
        FuncattrError: If there are several images.

    Example:
        >>> perturbation = Perturbation(torch.ones(1, 1, 1, 2), type="fade")
        >>> perturbation.apply(torch.tensor([[[[0.25, 1.0]]]])).flatten()
        tensor([0.2500, 1.0000])
    """

    def __init__(self, input: Tensor, num_levels: int = 8, max_blur: float = 20, type: str = "blur") -> None:
        if len(input) != 1:
            raise FuncattrError(
                f"Perturbation(input=...): expected one image [1, C, H, W], got shape {list(input.shape)}. For several "
                "take funcattr.masks.perturbation_pyramid and perturb."
            )
        self.type, self.num_levels, self.max_blur = type, num_levels, max_blur
        if type not in (BLUR_PERTURBATION, FADE_PERTURBATION):
            raise FuncattrError(f"Perturbation(type={type!r}): expected 'blur' or 'fade'.")
        way = "blur" if type == BLUR_PERTURBATION else "fade"
        self.pyramid = masks.perturbation_pyramid(input, perturbation=way, levels=num_levels, max_blur=max_blur)[0]

    def apply(self, mask: Tensor) -> Tensor:
        """Copies of the input that are kept where a mask is 1. [K, 1, H, W] -> [K, C, H, W]"""
        return masks.perturb(self.pyramid[None], mask[:, 0][None])[0]

    def to(self, dev: torch.device | str) -> "Perturbation":
        """Itself, with its pyramid moved to a device."""
        self.pyramid = self.pyramid.to(dev)
        return self

    def __str__(self) -> str:
        return f"Perturbation(type={self.type!r}, num_levels={self.num_levels}, max_blur={self.max_blur})"
