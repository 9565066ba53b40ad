"""The noise tunnel around any of the attribution classes, as in Captum."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import funcattr

from .attribution import Attribution, as_target, as_tuple, formatted, repeated
from .noise import noise_of


class NoiseTunnel(Attribution):
    """The mean, mean square or variance of attributions over noisy copies of the inputs.

    Args:
        attribution_method: An object of any attribution class.
    """

    def __init__(self, attribution_method: Attribution) -> None:
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.draws = True

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the method inside."""
        return self.attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """As the method inside."""
        return self.attribution_method.has_convergence_delta()

    def attribute(
        self,
        inputs: Any,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: Any = 1.0,
        draw_baseline_from_distrib: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The statistic, structured and shaped as the attributions, and how far each sample is off. [N * nt_samples]"""
        target, options = as_target(kwargs.pop("target", None)), dict(kwargs)
        wants_delta = self.has_convergence_delta() and options.get("return_convergence_delta", False)
        x = tuple(value.detach() for value in as_tuple(inputs))
        noise = noise_of(x, stdevs, nt_samples)
        rows = _drawn_rows(options.pop("baselines", None), x, nt_samples) if draw_baseline_from_distrib else ()
        deltas: list[Tensor] = []

        def method(values: tuple[Tensor, ...], target: Any, **options: Any) -> Any:
            values, drawn = values[: len(x)], values[len(x) :]
            options |= {"baselines": drawn if len(drawn) > 1 else next(iter(drawn))} if drawn else {}
            options |= {} if target is None else {"target": target}
            found = self.attribution_method.attribute(values if isinstance(inputs, tuple) else values[0], **options)
            if wants_delta:
                found, delta = found
                deltas.append(delta)
            return found

        run, chunk = partial(method, **options), nt_samples_batch_size or nt_samples  # names may be the tunnel's own
        starts = (*x, *(torch.zeros_like(row[:, 0]) for row in rows))  # a baseline is what is added to zero
        if self.attribution_method.draws:
            run, chunk = _one_call(method, starts, (*noise, *rows), target, options), 1
        found = funcattr.noise_tunnel(
            run,
            starts,
            target,
            kind=nt_type,  # pyright: ignore[reportArgumentType]
            noise=tuple(e.transpose(0, 1) for e in (*noise, *rows)),
            chunk_size=chunk,
        )
        result = formatted(as_tuple(found), isinstance(found, tuple))
        return (result, _of_samples(deltas, len(x[0]), nt_samples)) if wants_delta else result


def _one_call(
    method: Callable[..., Any],
    starts: tuple[Tensor, ...],
    noise: tuple[Tensor, ...],
    target: Any,
    options: dict[str, Any],
) -> Callable[..., Any]:
    """A method that is called once for all samples now, and gives its results sample by sample, whatever it is asked.

    Args:
        method: `(inputs, target, **options) -> attributions`
        starts, noise: The inputs [N, ...], and what each sample adds to them [N, S, ...].
        target, options: Of the method. Rows of one for each example are repeated.
    """
    examples, samples = noise[0].shape[:2]
    copies = tuple((x[:, None] + e.to(x)).flatten(0, 1) for x, e in zip(starts, noise, strict=True))
    each = {name: value if examples == 1 else repeated(value, examples, samples) for name, value in options.items()}
    found = method(copies, repeated(target, examples, samples), **each)
    parts = [a.unflatten(0, (examples, samples)).unbind(1) for a in as_tuple(found)]
    by_sample = iter(zip(*parts, strict=True))

    def next_sample(*_: Any, **__: Any) -> Any:
        part = next(by_sample)
        return part if isinstance(found, tuple) else part[0]

    return next_sample


def _drawn_rows(baselines: Any, x: tuple[Tensor, ...], samples: int) -> tuple[Tensor, ...]:
    """A row of each input's baselines for each sample of each example, drawn by numpy's generator. Each [N, S, ...]"""
    each = as_tuple(baselines)
    if not all(isinstance(rows, Tensor) for rows in each):
        raise TypeError("NoiseTunnel.attribute(baselines=...): expected tensors whose rows are drawn.")
    examples = len(x[0])
    return tuple(
        rows.detach()[np.random.choice(len(rows), examples * samples)].unflatten(0, (examples, samples))
        for rows in each
    )


def _of_samples(deltas: list[Tensor], examples: int, samples: int) -> Tensor:
    """The deltas of all samples, example by example, from those of chunks of them. [N * S]

    Before the chunks the method has run to see whether examples are separate, so the last calls count.
    """
    parts, left = [], examples * samples
    while left > 0:
        delta = deltas.pop()
        parts.insert(0, delta.reshape(examples, -1))
        left -= delta.numel()
    return torch.cat(parts, 1).flatten()
