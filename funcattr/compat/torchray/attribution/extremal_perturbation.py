"""Extremal perturbation, as `torchray.attribution.extremal_perturbation`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .... import FuncattrError, masks
from .mask_generator import BLUR_PERTURBATION as BLUR_PERTURBATION
from .mask_generator import FADE_PERTURBATION as FADE_PERTURBATION
from .mask_generator import MaskGenerator as MaskGenerator
from .mask_generator import Perturbation as Perturbation
from .rewards import DELETE_VARIANT as DELETE_VARIANT
from .rewards import DUAL_VARIANT as DUAL_VARIANT
from .rewards import PRESERVE_VARIANT as PRESERVE_VARIANT
from .rewards import contrastive_reward as contrastive_reward
from .rewards import simple_reward as simple_reward
from .seeds import resize_saliency, smoothed


def extremal_perturbation(
    model: nn.Module,
    input: Tensor,
    target: int,
    areas: float | Sequence[float] = [0.1],
    perturbation: Any = BLUR_PERTURBATION,
    max_iter: int = 800,
    num_levels: int = 8,
    step: int = 7,
    sigma: float = 21,
    jitter: bool = True,
    variant: Any = PRESERVE_VARIANT,
    print_iter: int | None = None,
    debug: bool = False,
    reward_func: Callable[[Tensor, int, str], Tensor] = simple_reward,
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
    smooth: float = 0,
) -> tuple[Tensor, Tensor]:
    """Smooth masks of given areas that make a channel of the model's output largest, areas measured on the canvas.

    `funcattr.masks.extremal_search` with `on="canvas"`; funcattr's own default measures them on the image.

    Args:
        model: A module.
        input: One image. [1, C, H, W]
        target: The channel of the output.
        areas: Share of the pixels of each mask. [K]
        perturbation: "blur" or "fade".
        max_iter: Steps of the search, T.
        num_levels: Levels of the perturbation.
        step, sigma: Of the masks, as in `MaskGenerator`.
        jitter: Mirror the image at every other step.
        variant: "preserve", "delete" or "dual".
        print_iter: Print the numbers of each such many steps, when the search is over.
        debug: Draw the masks and the numbers of the search with pyplot.
        reward_func: `(activation, target, variant) -> reward` [K, ...], as `simple_reward`; its mean is made large.
        resize, resize_mode: Of the masks, as in `common.saliency`.
        smooth: Standard deviation of a last Gaussian smoothing, as a share of the masks' smaller side.

    Returns:
        Masks [K, 1, H, W], and at each step the reward and the regulariser (at most 0), [K, 2, T].

    Raises:
        FuncattrError: If there are several images, or a function returns another number of rewards.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        >>> masks, energies = extremal_perturbation(model, torch.rand(1, 3, 28, 28), 1, areas=[0.1, 0.2], max_iter=2)
        >>> masks.shape, energies.shape
        (torch.Size([2, 1, 28, 28]), torch.Size([2, 2, 2]))
    """
    if len(input) != 1:
        raise FuncattrError(
            f"extremal_perturbation(input=...): expected one image [1, C, H, W], got shape {list(input.shape)}. For "
            "several take funcattr.extremal_perturbation, which searches for all masks at once."
        )
    shares = tuple(areas) if isinstance(areas, Sequence) else (areas,)
    found = masks.extremal_search(
        model,
        input,
        target,
        areas=shares,
        variant=variant,
        perturbation=perturbation,
        reward=_reward(reward_func, target, variant),
        on="canvas",
        steps=max_iter,
        spacing=step,
        radius=sigma,
        levels=num_levels,
        jitter=jitter,
    )
    mask = resize_saliency(input, found.masks[0].unsqueeze(1), resize, resize_mode)
    mask = smoothed(mask, smooth * min(mask.shape[2:]), "constant")
    history = torch.stack([found.reward[0], -found.penalty[0]], 1)
    if print_iter is not None:
        _print(history, shares, print_iter)
    if debug:
        _draw(mask, history)
    return mask, history


def _reward(reward_func: Any, target: int, variant: str) -> Callable[[Tensor, Any], Tensor]:
    """TorchRay's reward of all masks as funcattr's, one for each copy, which then takes off what hidden parts get."""

    def reward(activation: Tensor, _: Any) -> Tensor:
        if variant == DUAL_VARIANT:
            halves = torch.cat([activation[0::2], activation[1::2]])
            kept = _mean(reward_func(halves, target, variant), len(activation) // 2)
            return torch.stack([kept, torch.zeros_like(kept)], 1).flatten()
        values = _mean(reward_func(activation, target, variant), len(activation))
        return -values if variant == DELETE_VARIANT else values

    return reward


def _mean(rewards: Tensor, count: int) -> Tensor:
    if rewards.shape[:1] != (count,):
        raise FuncattrError(
            f"extremal_perturbation(reward_func=...): expected a reward for each of {count} masks, "
            f"got shape {list(rewards.shape)}."
        )
    return rewards.reshape(count, -1).mean(1)


def _print(history: Tensor, areas: Sequence[float], every: int) -> None:
    for step in range(0, history.shape[2], every):
        for area, (reward, regulariser) in zip(areas, history[:, :, step].tolist(), strict=True):
            total = reward + regulariser
            print(f"[{step:04d}] area {area:g}: energy {total:.4f} = reward {reward:.4f} + area {regulariser:.4f}")


def _draw(mask: Tensor, history: Tensor) -> None:
    from matplotlib import pyplot

    figure, (left, *right) = pyplot.subplots(1, 3, figsize=(12, 4))
    left.imshow(torch.cat(list(mask[:, 0].detach().cpu()), 1).numpy(), cmap="gray", vmin=0, vmax=1)
    left.set_title("masks")
    left.set_axis_off()
    for axis, name, numbers in zip(right, ("reward", "regulariser"), history.detach().cpu().unbind(1), strict=True):
        axis.plot(numbers.T.numpy())
        axis.set_title(name)
        axis.set_xlabel("step")
    figure.tight_layout()
