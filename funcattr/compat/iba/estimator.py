"""Running statistics of a layer's values, as a module that looks at what passes."""

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
        total = batch if self.shape is None else self.statistics() + batch
        self.shape, self.device = total.shape, x.device
        self.register_buffer("m", total.centre)
        self.register_buffer("s", total.squares)
        self.register_buffer("_neuron_nonzero", total.nonzero)
        self.register_buffer("_n_samples", torch.tensor([total.count], device=x.device))
        return x

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
