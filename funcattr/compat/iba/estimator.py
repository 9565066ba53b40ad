"""Running statistics of a layer's values, as a module that looks at what passes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...bottleneck import FeatureStatistics
from ...errors import FuncattrError


class TorchWelfordEstimator(nn.Module):
    """Estimates mean and standard deviation of values that pass, element by element.

    The sums are those of `funcattr.bottleneck.FeatureStatistics`, batch by batch.

    Example:
        >>> estim = TorchWelfordEstimator()
        >>> for batch in torch.arange(12.0).reshape(2, 3, 2).unbind():
        ...     _ = estim(batch)
        >>> estim.n_samples(), estim.mean()
        (6, tensor([5., 6.]))
    """

    m: Tensor
    s: Tensor
    _n_samples: Tensor
    _neuron_nonzero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.device: torch.device | None = None
        self.shape: torch.Size | None = None
        self.register_buffer("_n_samples", torch.tensor([0]))

    def forward(self, x: Tensor) -> Tensor:
        """Count the rows of x in, and return x as it is. [N, ...]"""
        batch = FeatureStatistics.of(x.detach())
        self.take(batch if self.shape is None else self.statistics() + batch)
        return x

    def take(self, seen: FeatureStatistics) -> None:
        """Put what has been seen in the place of all before."""
        self.shape, self.device = seen.shape, seen.centre.device
        self.register_buffer("m", seen.centre)
        self.register_buffer("s", seen.squares)
        self.register_buffer("_neuron_nonzero", seen.nonzero)
        self.register_buffer("_n_samples", torch.tensor([seen.count], device=self.device))

    def n_samples(self) -> int:
        """The number of rows that have been seen."""
        return int(self._n_samples.item())

    def mean(self) -> Tensor:
        """The mean. [...]"""
        return self.statistics().mean

    def std(self) -> Tensor:
        """The unbiased standard deviation. [...]"""
        return self.statistics().std

    def active_neurons(self, threshold: float = 0.01) -> Tensor:
        """Which elements are not zero in more than this share of the rows. Bool. [...]"""
        return self.statistics(threshold).active

    def statistics(self, threshold: float = 0.01) -> FeatureStatistics:
        """What has been seen, as funcattr has it.

        Raises:
            FuncattrError: If nothing has been seen.
        """
        if self.shape is None:
            raise FuncattrError("TorchWelfordEstimator: it has seen no values yet. Call it, or IBA.estimate, before.")
        sums = self._neuron_nonzero, self.m, self.s
        return FeatureStatistics("", "gaussian", self.n_samples(), *sums, threshold)


class WelfordEstimator:
    """Estimates mean and standard deviation of arrays, element by element, as `TorchWelfordEstimator` does of tensors.

    Example:
        >>> estim = WelfordEstimator()
        >>> for batch in np.arange(12.0).reshape(2, 3, 2):
        ...     _ = estim.fit(batch)
        >>> estim.n_samples(), estim.mean()
        (6, array([5., 6.]))
    """

    def __init__(self) -> None:
        self._estimator = TorchWelfordEstimator()

    def fit(self, x: np.ndarray) -> np.ndarray:
        """Count the rows of x in, and return x as it is. [N, ...]"""
        self._estimator(torch.from_numpy(np.array(x, dtype=np.float64)))
        return x

    def n_samples(self) -> int:
        """The number of rows that have been seen."""
        return self._estimator.n_samples()

    def mean(self) -> np.ndarray:
        """The mean. [...]"""
        return self._estimator.mean().numpy()

    def std(self) -> np.ndarray:
        """The unbiased standard deviation. [...]"""
        return self._estimator.std().numpy()

    def active_neurons(self, threshold: float = 0.01) -> np.ndarray:
        """Which elements are not zero in more than this share of the rows. Bool. [...]"""
        return self._estimator.active_neurons(threshold).numpy()

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, as arrays: mean "m", squares "s", "n_samples" and "neuron_nonzero"."""
        seen = self._estimator.statistics()
        return {
            "m": seen.centre.numpy(),
            "s": seen.squares.numpy(),
            "n_samples": seen.count,
            "neuron_nonzero": seen.nonzero.numpy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        m, s, nonzero = (torch.from_numpy(np.array(state[name])) for name in ("m", "s", "neuron_nonzero"))
        self._estimator = TorchWelfordEstimator()
        self._estimator.take(FeatureStatistics("", "gaussian", int(state["n_samples"]), nonzero, m, s, 0.01))
