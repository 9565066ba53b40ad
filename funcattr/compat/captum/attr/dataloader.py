"""Feature ablation of a whole data loader, as in Captum: a metric of all of its batches is explained."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

import funcattr

from .ablation import FeatureAblation
from .attribution import Attribution, as_baseline, as_tuple
from .perturbation import each_value_its_own

NEED_ATTR, NEED_FORWARD, NO_FORWARD = 0, 1, 2
"""The roles of what a data loader gives: attributed to, given to the model, given to `reduce` alone."""


class DataLoaderAttribution(Attribution):
    """Ablation of features in all batches of a data loader, scored by a metric of all outputs.

    Args:
        attr_method: A `FeatureAblation`.
    """

    def __init__(self, attr_method: Attribution) -> None:
        if type(attr_method) is not FeatureAblation:
            raise funcattr.FuncattrError(
                f"DataLoaderAttribution({type(attr_method).__name__}): expected a FeatureAblation. Call other methods "
                "for each batch."
            )
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method

    def attribute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        dataloader: Iterable[Any],
        input_roles: Sequence[int] | None = None,
        baselines: Any = None,
        feature_mask: Any = None,
        reduce: Callable[[Any, Any, Any], Any] | None = None,
        to_metric: Callable[[Any], Tensor] | None = None,
        perturbations_per_pass: int = 1,
        show_progress: bool = False,
        return_input_shape: bool = True,
    ) -> Any:
        """What the metric loses when a feature is at its baseline in all batches.

        Args:
            dataloader: Gives a tensor, or a tuple or list of things, for each batch.
            input_roles: Of each thing: 0 is attributed to, 1 is given to the model as it is, 2 is not given to it.
            baselines, feature_mask: Of what is attributed to; tensors have one row, for all examples.
            reduce: `(accumulated or None, output, things) -> accumulated`; outputs are concatenated by default.
            to_metric: `accumulated -> a tensor`, where it is none yet.
            perturbations_per_pass: How many features are ablated, one by one, in one pass over the data.
            show_progress: Whether to show a progress bar.
            return_input_shape: Whether attributions are shaped as what is attributed to.

        Returns:
            A row for each number of the metric, shaped as the things with role 0, [K, ...]; or [K, features].
        """
        first = next(iter(dataloader))
        is_tuple = isinstance(first, list | tuple)
        things = tuple(first) if is_tuple else (first,)
        roles = (NEED_ATTR,) * len(things) if input_roles is None else tuple(input_roles)
        if len(roles) != len(things) or NEED_ATTR not in roles:
            raise funcattr.FuncattrError(
                f"DataLoaderAttribution.attribute(input_roles={roles}): expected a role for each of the {len(things)} "
                "things in a batch, of which one at least is 0."
            )
        x = tuple(thing for thing, role in zip(things, roles, strict=True) if role == NEED_ATTR)
        covers = as_baseline(baselines, x)
        masks = each_value_its_own(x) if feature_mask is None else as_tuple(feature_mask)
        for name, values in (("baselines", covers), ("feature_mask", masks)):
            if len(values) != len(x) or any(isinstance(v, Tensor) and v.ndim and len(v) != 1 for v in values):
                raise funcattr.FuncattrError(
                    f"DataLoaderAttribution.attribute({name}=...): expected one for each of the {len(x)} things with "
                    "role 0, tensors with one row, which is for all examples."
                )
        metric = _Metric(self.forward_func, dataloader, roles, covers, masks, reduce or _concatenated, to_metric)
        features = 1 + max(int(mask.max()) for mask in masks)
        found = FeatureAblation(metric).attribute(
            torch.ones(1, features), perturbations_per_eval=perturbations_per_pass, show_progress=show_progress
        )
        if not return_input_shape:
            return found
        shaped = tuple(found[:, mask.expand(1, *v.shape[1:])[0].cpu()] for mask, v in zip(masks, x, strict=True))
        return shaped if is_tuple else shaped[0]


class _Metric:
    """The metric of a data loader as a function of which features are present. [c, features] -> [c, ...]"""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        dataloader: Iterable[Any],
        roles: tuple[int, ...],
        covers: tuple[Any, ...],
        masks: tuple[Tensor, ...],
        reduce: Callable[[Any, Any, Any], Any],
        to_metric: Callable[[Any], Tensor] | None,
    ) -> None:
        self.forward_func, self.dataloader, self.roles = forward_func, dataloader, roles
        self.covers, self.masks, self.reduce, self.to_metric = covers, masks, reduce, to_metric
        self._known: dict[tuple[bool, ...], Tensor] = {}

    def __call__(self, present: Tensor) -> Tensor:
        """Each set of features is a pass over the data, or a part of one, the first time that it is asked for."""
        # No set are the numbers between, by which it is looked at whether examples are separate: no pass for them.
        whole = (True,) * present.shape[1]
        asked = [tuple(map(bool, row)) if {*row} <= {0.0, 1.0} else whole for row in present.tolist()]
        new = [row for row in dict.fromkeys(asked) if row not in self._known]
        if new:
            self._known |= dict(zip(new, self._passed(new), strict=True))
        return torch.stack([self._known[row] for row in asked])

    def _passed(self, rows: list[tuple[bool, ...]]) -> list[Tensor]:
        """The metric for each of some sets of features, by one pass over the data."""
        accumulated: list[Any] = [None] * len(rows)
        for batch in self.dataloader:
            things = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
            for i, row in enumerate(rows):
                changed = self._without(things, torch.tensor(row))
                inputs = (thing for thing, role in zip(changed, self.roles, strict=True) if role != NO_FORWARD)
                accumulated[i] = self.reduce(accumulated[i], self.forward_func(*inputs), changed)
        return [each if self.to_metric is None else self.to_metric(each) for each in accumulated]

    def _without(self, things: tuple[Any, ...], present: Tensor) -> tuple[Any, ...]:
        """A batch whose absent features are at their baseline."""
        players, changed = iter(zip(self.covers, self.masks, strict=True)), []
        for thing, role in zip(things, self.roles, strict=True):
            if role == NEED_ATTR:
                cover, mask = next(players)
                stays = present.to(mask.device)[mask].to(thing.device)
                thing = torch.where(stays, thing, torch.as_tensor(cover, device=thing.device))
            changed.append(thing)
        return tuple(changed)


def _concatenated(accumulated: Tensor | None, output: Tensor, things: Any) -> Tensor:
    return output if accumulated is None else torch.cat([accumulated, output])
