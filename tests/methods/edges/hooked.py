"""Edges by hooks on the user's modules and torch.autograd: shares nothing with the package."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], Tensor]
"""Runs the model and gives the explained number of each example. -> [N]"""


def run(call: Call, model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """The number with the values at some sites changed; what a function gives back goes on."""
    handles: list[Any] = []
    for site, change in changes.items():
        path, _, number = site.removesuffix("@input").partition("#")
        before = site.endswith("@input")
        handles.append(_hook(model.get_submodule(path), before, int(number or 0), change))
    try:
        return call()
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, is_input: bool, number: int, change: Callable[[Tensor], Tensor]) -> Any:
    passed = []

    def changed(value: Any) -> Any:
        passed.append(value)
        if len(passed) != number + 1:
            return value
        return (change(value[0]), *value[1:]) if isinstance(value, tuple) else change(value)

    if not is_input:
        return module.register_forward_hook(lambda module, args, output: changed(output))

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: changed(kwargs[first])}

    return module.register_forward_pre_hook(before, with_kwargs=True)


def values(call: Call, model: nn.Module, sites: tuple[str, ...]) -> dict[str, Tensor]:
    """The values at some sites."""
    found: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            found[site] = value.detach().clone()
            return value

        return change

    with torch.no_grad():
        run(call, model, {site: keep(site) for site in sites})
    return found


def cotangents(call: Call, model: nn.Module, sinks: tuple[str, ...]) -> dict[str, Tensor]:
    """The gradient of the summed number at some sites, by autograd."""
    zeros: dict[str, Tensor] = {}

    def shift(site: str) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            zeros[site] = torch.zeros_like(value, requires_grad=True)
            return value + zeros[site]

        return change

    number = run(call, model, {site: shift(site) for site in sinks}).sum()
    found = torch.autograd.grad(number, [zeros[site] for site in sinks], allow_unused=True)
    return {s: torch.zeros_like(zeros[s]) if g is None else g for s, g in zip(sinks, found, strict=True)}


def slope_of_sum(call: Call, model: nn.Module, sink: str, direction: Tensor, h: float = 1e-4) -> Tensor:
    """d y / d t where `t direction` is added at a sink, by central differences. [N]"""
    with torch.no_grad():
        up, down = (run(call, model, {sink: lambda v, t=t: v + t * direction}) for t in (h, -h))
    return (up - down) / (2 * h)


def slope_of_sink(
    call: Call,
    model: nn.Module,
    source: str,
    sink: str,
    held: Mapping[str, Tensor],
    direction: Tensor,
    cotangent: Tensor,
    h: float = 1e-4,
) -> Tensor:
    """d <s, g> / d t where the source has `t direction` more and every other listed site is held, likewise. [N]"""

    def at(t: float) -> Tensor:
        found = []

        def keep(value: Tensor) -> Tensor:
            found.append(value.clone())
            return held[sink].clone()

        changes: dict[str, Any] = {site: (lambda v, site=site: held[site].clone()) for site in held if site != sink}
        run(call, model, changes | {source: lambda v: held[source] + t * direction, sink: keep})
        return (found[0] * cotangent).flatten(1).sum(1)

    with torch.no_grad():
        return (at(h) - at(-h)) / (2 * h)
