"""The readout bottleneck as a module: a network predicts alpha from other layers of the live model."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...bottleneck import ReadoutBottleneck
from ...errors import FuncattrError, warn
from .bottleneck import IBA
from .estimator import TorchWelfordEstimator


class IBAReadout(IBA):
    """A bottleneck whose alpha a small network reads from the model's layers, in a first pass of each call.

    `estimate` makes the network, `iba.readout`, a `funcattr.bottleneck.ReadoutBottleneck`. It is trained by calls of
    the model within `restrict_flow()`, for the loss and `beta * iba.capacity().mean()`.

    Args:
        attach_layer: The layer of the bottleneck.
        readout_layers: The layers that are read.
        model: The model that contains them.
        estimator_type: Class of the estimators; None for `TorchWelfordEstimator`.
        kwargs: As in `IBA`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> iba = IBAReadout(model[0], [model[1], model[3]], model)
        >>> iba.estimate(model, [(torch.randn(1000, 1, 8, 8),)])
        >>> optimizer = torch.optim.Adam(iba.readout.parameters())
        >>> iba.analyze(torch.randn(1, 1, 8, 8), model).shape
        (8, 8)
    """

    def __init__(
        self,
        attach_layer: nn.Module,
        readout_layers: Sequence[nn.Module],
        model: nn.Module,
        estimator_type: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(attach_layer, **kwargs)
        self._estimator_type = estimator_type or TorchWelfordEstimator
        self._read, self._model = tuple(readout_layers), (model,)  # in tuples, so that they are no submodules
        self._estimators = [self._estimator_type() for _ in self._read]
        self._values: dict[str, Tensor] = {}
        self._inputs: tuple[Any, ...] | None = None
        self._reads = False
        self.readout: ReadoutBottleneck | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Pass x on as it is, or restricted; and count it in while estimating."""
        return x if self._reads else super().forward(x)

    def reset_estimate(self) -> None:
        """Forget what was estimated, of the readout layers too."""
        super().reset_estimate()
        self._estimators = [self._estimator_type() for _ in self._read]

    def interrupt_execution(self) -> Any:
        """Nothing is interrupted: layers behind the bottleneck are read too."""
        return self._hooked()

    def estimate(self, *args: Any, **kwargs: Any) -> None:
        """Estimate the statistics of all layers, as `IBA.estimate`, and make the network unless there is one."""
        super().estimate(*args, **kwargs)
        if self.readout is None:
            readouts = [self._statistics_of(e, f"readout{i}") for i, e in enumerate(self._estimators)]
            network = ReadoutBottleneck(self._known(), readouts, min_std=self.min_std)
            self.readout = network.to(self._known().centre.device, self._known().centre.dtype)

    def analyze(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_t: Tensor, model: Any, mode: Literal["saliency", "capacity"] = "saliency", **kwargs: Any
    ) -> np.ndarray:
        """The map of the capacity behind the network's alpha, as `IBA.analyze`.

        Args:
            input_t: The image. [1, C, H, W]
            model: The model, or a function that calls it.
            mode: "saliency" or "capacity".
            kwargs: Nothing: a readout has no options.
        """
        if kwargs:
            warn(f"IBAReadout.analyze: a readout is not optimised, {', '.join(kwargs)} are without effect.")
        if mode not in ("saliency", "capacity"):
            raise ValueError(f"IBAReadout.analyze(mode={mode!r}): expected 'saliency' or 'capacity'.")
        with self.restrict_flow(), torch.no_grad():
            model(input_t)
        return self._get_saliency(mode, input_t.shape[2:])

    def _alpha_of(self, x: Tensor) -> Tensor:
        if self.readout is None or self._inputs is None:
            raise FuncattrError("IBAReadout: it has no network yet. Call estimate(model, data) before.")
        (model,), self._reads = self._model, True
        try:
            with torch.no_grad():
                model(*self._inputs)
        finally:
            self._reads = False
        return self.readout(self._values)

    def _hook(self) -> Iterator[RemovableHandle]:
        yield from super()._hook()
        (model,) = self._model
        yield model.register_forward_pre_hook(self._keep_inputs)
        for i, layer in enumerate(self._read):
            yield layer.register_forward_hook(partial(self._see, i))

    def _keep_inputs(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self._reads:
            self._inputs = inputs

    def _see(self, index: int, _: nn.Module, inputs: Any, value: Tensor) -> None:
        if self._reads:
            self._values[f"readout{index}"] = value.clone()  # the model may write into its own
        elif self._estimates:
            self._estimators[index](value)
