"""Integrated gradients and gradient SHAP, as in Captum."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import funcattr

from .attribution import Given, GradientAttribution, as_baseline, as_rows
from .noise import noise_of


class PathAttribution(GradientAttribution):
    """The base of methods along a path: attributions are contributions, or slopes where that is asked for."""

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the way from the baseline to the input."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True


class IntegratedGradients(PathAttribution):
    """Integrated gradients."""

    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs, and how far their sum is off. [N]"""
        given = Given.of(inputs, target, additional_forward_args)
        found = funcattr.integrated_gradients(
            self.forward_func,
            given.x,
            **given.every,
            baseline=as_baseline(baselines, given.x),
            **path_options(n_steps, method, internal_batch_size, given.examples),
            times_difference=self.multiplies_by_inputs,
        )
        result = given.result(found)
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(found, baselines, inputs, target, additional_forward_args)


def path_options(n_steps: int, method: str, internal_batch_size: int | None, examples: int) -> dict[str, Any]:
    """The points of an integral, and how many run at once: Captum counts examples, the package points."""
    chunk = n_steps if internal_batch_size is None else max(1, internal_batch_size // examples)
    return {"steps": n_steps, "quadrature": method, "chunk_size": chunk}


class GradientShap(PathAttribution):
    """Gradient SHAP: gradients at random points between random baselines and noisy inputs."""

    draws = True

    def attribute(
        self,
        inputs: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: Any = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, structured and shaped as the inputs, and how far each draw is off. [N * n_samples]"""
        given = Given.of(inputs, target, additional_forward_args)
        lines = RandomLines.of(given, as_rows(baselines, given), n_samples, stdevs)
        slopes = funcattr.gradient(self.forward_func, lines.points(lines.start, lines.end), **lines.given.every)
        each = lines.contributions(slopes, lines.start, lines.end) if self.multiplies_by_inputs else slopes
        result = given.result(lines.mean(each))
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(
            each, lines.start, lines.end, lines.given.target, lines.given.args
        )


class RandomLines:
    """Random lines from baselines to noisy inputs, each with a random point on it.

    Captum draws them for each example and sample, and its deltas are theirs one by one, which the mean that
    `funcattr.expected_gradients` gives does not tell. Noise comes from torch's generator, rows and points from numpy's,
    in Captum's order.

    Attributes:
        given: What the method was given, for each of the copies. [N * S]
        samples: S, the lines of each example.
        start, end: The ends of the lines, structured as the inputs. Each [N * S, ...]
        alpha: The place of the points on them. [N * S]
    """

    def __init__(self, given: Given, samples: int, start: Any, end: Any) -> None:
        self.given, self.samples, self.start, self.end = given, samples, start, end
        self.alpha = torch.from_numpy(np.random.uniform(0.0, 1.0, given.examples)).to(given.x[0].device)

    @staticmethod
    def of(given: Given, rows: tuple[Tensor, ...], samples: int, stdevs: Any) -> "RandomLines":
        """`samples` lines for each example."""
        copies = given.times(samples)
        noise = noise_of(given.x, stdevs, samples)
        end = tuple(x + e.flatten(0, 1).to(x) for x, e in zip(copies.x, noise, strict=True))
        start = tuple(row[np.random.choice(len(row), copies.examples)].to(x) for row, x in zip(rows, end, strict=True))
        return RandomLines(copies, samples, start, end)

    def points(self, start: tuple[Tensor, ...], end: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The random point of each line between some ends."""
        return tuple(a + self._like(b) * (b - a) for a, b in zip(start, end, strict=True))

    def contributions(self, slopes: Any, start: Any, end: Any) -> tuple[Tensor, ...]:
        """Slopes times the lines' lengths."""
        return tuple(g * (b - a) for g, a, b in zip(slopes, start, end, strict=True))

    def mean(self, each: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The mean over the lines of each example. Each [N * S, ...] -> [N, ...]"""
        return tuple(a.unflatten(0, (-1, self.samples)).mean(1) for a in each)

    def _like(self, value: Tensor) -> Tensor:
        return self.alpha.to(value).reshape(-1, *[1] * (value.ndim - 1))
