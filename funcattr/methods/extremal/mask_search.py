"""The search for extremal masks: gradient ascent with momentum on the masks' parameters, one step at a time."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..._torch import is_differentiated
from ...attribution.func_pullback import func_pullback
from ...attribution.question import Question
from ...batch import merged
from ...errors import UntrackedPathError
from ...torch_state import derivative_is_final
from .area_loss import area_loss
from .perturbation_pyramid import interpolated
from .rewards import Reward, reward_of
from .smooth_mask import MaskGrid, On, crop, mask_vjp, parameters_size

Variant = Literal["preserve", "delete", "dual"]


class Search(NamedTuple):
    """The options of `extremal_perturbation`; `size` is the image's, `grid` that of the masks."""

    size: tuple[int, int]
    grid: MaskGrid
    areas: tuple[float, ...]
    variant: Variant
    reward: Reward
    on: On
    lr: float
    momentum: float
    dampening: float
    penalty: float
    growth: float
    spacing: int
    radius: float
    jitter: bool
    least_rise: float | None
    patience: int


class State(NamedTuple):
    """The state of the search for each mask.

    Attributes:
        parameters: Of the masks. [N, A, h, w]
        velocity: Running mean of the gradients. [N, A, h, w]
        mask: Of the last forward pass, on the image or the canvas. [N, A, H, W]
        reward, penalty: At that pass; their difference is the objective. [N, A]
        best: The largest objective so far, that rose by more than the least rise. [N, A]
        stale: Steps since then. [N, A]
    """

    parameters: Tensor
    velocity: Tensor
    mask: Tensor
    reward: Tensor
    penalty: Tensor
    best: Tensor
    stale: Tensor


def initial_state(search: Search, examples: int) -> State:
    """The state before the first step: all parameters 1."""
    weights, counts = search.grid.weights, (examples, len(search.areas))
    parameters = weights.new_ones(*counts, *parameters_size(search.size, search.spacing))
    mask = weights.new_ones(*counts, search.grid.rows.length, search.grid.columns.length)
    zero, none = weights.new_zeros(counts), weights.new_full(counts, -math.inf)
    stale = torch.zeros(counts, dtype=torch.long, device=weights.device)
    return State(parameters, torch.zeros_like(parameters), mask, zero, zero.clone(), none, stale)


def search_step(search: Search, question: Question, levels: Tensor, state: State, t: Tensor) -> State:
    """One step up the objective, which is a sum over masks, so that each goes its own way.

    v_0 = g_0, v_t = momentum v_{t-1} + (1 - dampening) g_t;  p_{t+1} = clamp(p_t + lr v_t, 0, 1)

    Args:
        search: The options.
        question: What is asked of the model.
        levels: The perturbed inputs, `with_slopes`. [N, L, 2 C, H, W]
        state: Before the step.
        t: Its number, from 0. [1]

    Returns:
        The parameters after the step; the mask, reward and penalty of those before it.
    """
    mask, pullback = mask_vjp(state.parameters, search.grid)
    weight = search.penalty * torch.exp(math.log(search.growth) * t.to(mask.dtype))

    def objective(mask: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        reward = reward_of_masks(search, question, levels, visible(search, mask), t)
        losses = [area_loss(mask[:, i], area) for i, area in enumerate(search.areas)]
        penalty = weight * torch.stack(losses, 1)
        return reward - penalty, (reward, penalty)

    value, pull, (reward, penalty) = func_pullback(question.call, objective, mask, has_aux=True)
    final = derivative_is_final(value)
    gradient = pullback(pull(torch.ones_like(value), retain_graph=False, create_graph=False if final else None)[0])
    running = search.momentum * state.velocity + (1 - search.dampening) * gradient
    velocity = torch.where(t == 0, gradient, running)
    parameters = (state.parameters + search.lr * velocity).clamp(0, 1)
    better = reward - penalty > state.best + (search.least_rise or 0.0)
    best, stale = torch.where(better, reward - penalty, state.best), torch.where(better, 0, state.stale + 1)
    after = State(parameters, velocity, mask, reward, penalty, best, stale)
    return after if search.least_rise is None else _unless_ended(search, state, after)


def reward_of_masks(search: Search, question: Question, levels: Tensor, mask: Tensor, t: Tensor) -> Tensor:
    """The reward of each mask, by the part that it keeps, less by the part that it hides. [N, A, H, W] -> [N, A]"""
    examples, areas = mask.shape[:2]
    hidden = 1 - mask
    sides = {"preserve": (mask,), "delete": (hidden,), "dual": (mask, hidden)}[search.variant]
    copies = interpolated(levels, torch.stack(sides, 2).flatten(1, 2))
    if search.jitter:
        copies = torch.where(t % 2 == 0, copies.flip(-1), copies)
    asked = question.of_copies(merged(copies))
    rewards = reward_of(question.call, search.reward, asked.outputs(), asked.target)
    # Dynamo cannot follow the question.
    if not torch.compiler.is_dynamo_compiling() and not is_differentiated(rewards):
        raise UntrackedPathError(
            f"{question.call}: the reward does not depend on the input by any path that can be differentiated. "
            "Look for detach(), comparisons or integer results in the model, the target or the reward."
        )
    signs = {"preserve": (1.0,), "delete": (-1.0,), "dual": (1.0, -1.0)}[search.variant]
    each = rewards.to(mask.dtype).reshape(examples, areas, len(sides)).unbind(2)
    return torch.stack([sign * reward for sign, reward in zip(signs, each, strict=True)]).sum(0)


def visible(search: Search, mask: Tensor) -> Tensor:
    """The image's part of a mask. [N, A, H, W]"""
    return mask if search.on == "image" else crop(mask, search.size, radius=search.radius)


def ended(search: Search, state: State) -> Tensor:
    """Whether the objective of each mask has stopped to rise. [N, A]"""
    return state.stale >= search.patience


def _unless_ended(search: Search, before: State, after: State) -> State:
    """The state after a step for the masks whose search goes on, and the one before it for the others."""
    over = ended(search, before)

    def kept(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(over.reshape(*over.shape, *[1] * (new.ndim - 2)), old, new)

    return State(*map(kept, before, after))
