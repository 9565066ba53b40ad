"""The per-sample bottleneck as a module that restricts the flow through a layer of the live model."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm.auto import tqdm

from ...bottleneck import FeatureStatistics, restrict
from ...errors import FuncattrError, warn
from .estimator import TorchWelfordEstimator
from .saliency_map import to_saliency_map

FEW = 1000
T = TypeVar("T")


class _Interrupted(Exception):  # noqa: N818  (no error: it ends a forward pass)
    """The bottleneck was reached."""


class IBA(nn.Module):
    """Finds the relevant features of a model by noise in place of features.

    Within its contexts and methods the layer has a forward hook; before and after, the model is as it was.
    Alternatively the object is itself a layer of the model: `model.conv4 = nn.Sequential(model.conv4, iba)`.

    Args:
        layer: The layer at which the features are; None if the object is put into the model.
        sigma: Standard deviation of the smoothing over space; None for none.
        beta: Weight of the information.
        min_std: Smallest standard deviation of a feature.
        optimization_steps, lr: Of Adam.
        batch_size: Noise samples of each step.
        initial_alpha: Where alpha starts.
        active_neurons_threshold: As in `active_neurons` of the estimator.
        feature_mean, feature_std: Of the features, for as long as nothing was estimated. [C, H, W]
        estimator: In place of a `TorchWelfordEstimator`: called with values, with `mean()`, `std()`, `n_samples()` and
            `active_neurons(threshold)`.
        progbar: Whether to show progress bars.
        input_or_output: Whether the features are the layer's "output" or its "input".
        relu: Whether what goes on is cut at zero.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> iba = IBA(model[0])
        >>> iba.estimate(model, [(torch.randn(1000, 1, 8, 8),)])
        >>> loss = lambda x: -torch.log_softmax(model(x), 1)[:, 1].mean()
        >>> iba.analyze(torch.randn(1, 1, 8, 8), loss).shape
        (8, 8)
    """

    alpha: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module | None = None,
        sigma: float | None = 1.0,
        beta: float = 10,
        min_std: float = 0.01,
        optimization_steps: int = 10,
        lr: float = 1,
        batch_size: int = 10,
        initial_alpha: float = 5.0,
        active_neurons_threshold: float = 0.01,
        feature_mean: Tensor | None = None,
        feature_std: Tensor | None = None,
        estimator: Any = None,
        progbar: bool = False,
        input_or_output: Literal["output", "input"] = "output",
        relu: bool = False,
    ) -> None:
        super().__init__()
        if input_or_output not in ("output", "input"):
            raise ValueError(f"IBA(input_or_output={input_or_output!r}): expected 'output' or 'input'.")
        self.sigma, self.beta, self.min_std, self.relu = sigma, beta, min_std, relu
        self.optimization_steps, self.lr, self.batch_size = optimization_steps, lr, batch_size
        self.initial_alpha, self.progbar = initial_alpha, progbar
        self.estimator = TorchWelfordEstimator() if estimator is None else estimator
        self.register_parameter("alpha", None)
        self._feature_mean, self._feature_std = feature_mean, feature_std
        self.active_neurons_threshold = active_neurons_threshold
        self._threshold, self._floor = active_neurons_threshold, min_std
        self._layer = None if layer is None else (layer,)  # in a tuple, so that it is no submodule
        self._at_input = input_or_output == "input"
        self._statistics: FeatureStatistics | None = None
        self._buffer_capacity: Tensor | None = None
        self._passed = 0
        self._detached = False
        self._attached = self._restricts = self._estimates = self._interrupts = False
        self._loss, self._model_loss, self._information_loss = list[float](), list[float](), list[float]()
        self._alpha_grads: list[np.ndarray] = []

    # --- as a layer --------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Pass x on as it is, or restricted; and count it in while estimating. Models call this."""
        if not isinstance(x, Tensor):
            raise FuncattrError(
                f"IBA: the layer's value is of type {type(x).__name__}: take a layer that gives a tensor."
            )
        self._passed += 1
        if self._restricts:
            return self._restricted(x)
        if self._estimates:
            self.estimator(x)
        if self._interrupts:
            raise _Interrupted
        return x

    def _restricted(self, x: Tensor) -> Tensor:
        statistics = self._known()
        flow = restrict(
            x,
            self._alpha_of(x),
            statistics,
            sigma=self.sigma or None,
            min_std=self._floor,
            relu=self.relu,
            noise=torch.randn(x.shape, dtype=x.dtype, device=x.device),  # torch's own seed, a draw for each call
        )
        self._buffer_capacity = flow.capacity * math.log(2)
        return flow.value

    def _alpha_of(self, x: Tensor) -> Tensor:
        """Alpha for a value of the layer. [1, ...]"""
        assert self.alpha is not None
        return self.alpha[None]

    def detach(self) -> None:
        """Let the layer go: the contexts leave it alone from now on.

        Raises:
            ValueError: If there is none.
        """
        if self._layer is None:
            raise ValueError("IBA.detach: it is attached to no layer, or was detached before.")
        self._layer, self._detached = None, True

    # --- contexts ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """The layer's value goes through `forward`."""
        if self._layer is None or self._attached:
            yield
            return
        self._attached = True
        with ExitStack() as hooks:
            hooks.callback(setattr, self, "_attached", False)
            for handle in self._hook():
                hooks.callback(handle.remove)
            yield

    def _hook(self) -> Iterator[RemovableHandle]:
        """Hook what the contexts need, one by one."""
        assert self._layer is not None
        (layer,) = self._layer
        if self._at_input:
            yield layer.register_forward_pre_hook(self._of_inputs)
        else:
            yield layer.register_forward_hook(lambda _, inputs, output: self(output))

    def _of_inputs(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not inputs:
            raise FuncattrError(
                "IBA(input_or_output='input'): the layer gets its input by keyword. Take the output of the layer "
                "before it."
            )
        return self(inputs[0]), *inputs[1:]

    @contextmanager
    def _with(self, flag: str) -> Iterator[None]:
        before = getattr(self, flag)
        with self._hooked():
            setattr(self, flag, True)
            try:
                yield
            finally:
                setattr(self, flag, before)

    @contextmanager
    def interrupt_execution(self) -> Iterator[None]:
        """The model runs up to the layer; the rest of the context is skipped."""
        with self._with("_interrupts"), suppress(_Interrupted):
            yield

    @contextmanager
    def enable_estimation(self) -> Iterator[None]:
        """What passes is counted in by the estimator. `estimate` does it for a data set."""
        try:
            with self._with("_estimates"):
                yield
        finally:
            self._statistics = None

    @contextmanager
    def restrict_flow(self) -> Iterator[None]:
        """Calls of the model go through the bottleneck.

        Raises:
            FuncattrError: At the end, if no call did (but for one whose layer was let go by `detach`).
        """
        self._known()
        passed = self._passed
        with self._with("_restricts"):
            yield
        if self._passed == passed and not self._detached:
            raise FuncattrError(
                "IBA.restrict_flow: no value passed the bottleneck, so nothing was restricted. Call the eager model "
                "(not a compiled or scripted one) that has the layer."
            )

    # --- statistics --------------------------------------------------------------------------------------------------

    def reset_estimate(self) -> None:
        """Forget what was estimated."""
        self.estimator, self._statistics = TorchWelfordEstimator(), None

    def reset_alpha(self) -> None:
        """Set alpha to where it starts."""
        statistics = self._known()
        like = statistics.centre
        if self.alpha is None or (self.alpha.shape, self.alpha.device) != (like.shape, like.device):
            self.alpha = nn.Parameter(torch.empty_like(like))
        with torch.no_grad():
            self.alpha.fill_(self.initial_alpha)

    def estimate(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        device: torch.device | str | None = None,
        n_samples: int = 10000,
        progbar: bool | None = None,
        reset: bool = True,
    ) -> None:
        """Estimate mean and standard deviation of the features over a data set.

        Args:
            model: The model that contains the layer. It runs up to there.
            dataloader: Batches whose first item is the images (or a tensor of images).
            device: Where images go; None for that of the model's first parameter.
            n_samples: Batches are taken as long as no more than these have been seen.
            progbar: Whether to show a progress bar; None for the object's own setting.
            reset: Whether to forget what was estimated before.

        Raises:
            FuncattrError: If no value passed the layer.
        """
        first = next(model.parameters(), None)
        device = device if device is not None or first is None else first.device
        if reset:
            self.reset_estimate()
        show = self.progbar if progbar is None else progbar
        with tqdm(total=n_samples, disable=not show, desc="IBA.estimate") as bar:
            for batch in dataloader:
                if self.estimator.n_samples() > n_samples:
                    break
                images = batch if isinstance(batch, Tensor) else batch[0]
                with torch.no_grad(), self.interrupt_execution(), self.enable_estimation():
                    model(images.to(device))
                bar.update(len(images))
        self._threshold, self._floor, self._statistics = self.active_neurons_threshold, self.min_std, None
        if self.estimator.n_samples() == 0:
            raise FuncattrError(
                "IBA.estimate: no value passed the layer. Is it a layer of this model, and is there data?"
            )
        self.reset_alpha()

    def _known(self) -> FeatureStatistics:
        """The statistics of the features, whoever estimated them."""
        if self._statistics is None:
            if self.estimator.n_samples() > 0:
                self._statistics = self._statistics_of(self.estimator)
            elif self._feature_mean is None or self._feature_std is None:
                raise FuncattrError(
                    "IBA: the features' mean and spread are not known. Call estimate(model, data) before."
                )
            else:
                self._statistics = _statistics(self._feature_mean, self._feature_std, None, "")
            if self.alpha is None or self.alpha.shape != self._statistics.shape:
                self.reset_alpha()
        return self._statistics

    def _statistics_of(self, estimator: Any, layer: str = "") -> FeatureStatistics:
        return _statistics(estimator.mean(), estimator.std(), estimator.active_neurons(self._threshold), layer)

    # --- the analysis ------------------------------------------------------------------------------------------------

    def analyze(
        self,
        input_t: Tensor,
        model_loss_fn: Callable[[Tensor], Tensor],
        mode: Literal["saliency", "capacity"] = "saliency",
        beta: float | None = None,
        optimization_steps: int | None = None,
        min_std: float | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        active_neurons_threshold: float | None = 0.01,
    ) -> np.ndarray:
        """Optimise the bottleneck for one image, and make a map of its capacity.

        Args:
            input_t: The image. [1, C, H, W]
            model_loss_fn: A function of a batch of copies of it, which calls the model and returns one number.
            mode: "saliency" for bits per pixel [H, W], or "capacity" for bits of each feature [C, h, w].
            beta, optimization_steps, min_std, lr, batch_size: In place of the object's own, unless None.
            active_neurons_threshold: The estimator's threshold; None for the object's own.

        Returns:
            The map, an array.

        Raises:
            ValueError: If there is more than one image, or the mode is another.
            FuncattrError: If nothing has been estimated, or the loss is no number that depends on the layer.
        """
        if input_t.shape[0] != 1:
            raise ValueError(
                f"IBA.analyze(input_t=...): expected one image, got {input_t.shape[0]}. funcattr.iba takes a batch."
            )
        if mode not in ("saliency", "capacity"):
            raise ValueError(f"IBA.analyze(mode={mode!r}): expected 'saliency' or 'capacity'.")
        beta, min_std = _first(beta, self.beta), _first(min_std, self.min_std)
        steps, lr = _first(optimization_steps, self.optimization_steps), _first(lr, self.lr)
        copies = input_t.expand(_first(batch_size, self.batch_size), *input_t.shape[1:])
        self._floor, self._statistics = min_std, None
        self._threshold = _first(active_neurons_threshold, self.active_neurons_threshold)
        self.reset_alpha()
        if 0 < self.estimator.n_samples() < FEW:
            warn(f"IBA.analyze: {self.estimator.n_samples()} samples are few for means and spreads; 10 000 are better.")
        self._loss, self._model_loss, self._information_loss, self._alpha_grads = [], [], [], []
        alpha = self.alpha
        assert alpha is not None
        optimizer = torch.optim.Adam([alpha], lr=lr)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self.restrict_flow())
            for _ in tqdm(range(steps), desc="IBA.analyze", disable=not self.progbar):
                optimizer.zero_grad()
                self._buffer_capacity = None
                model_loss = model_loss_fn(copies)
                if self._buffer_capacity is None or not isinstance(model_loss, Tensor) or model_loss.numel() != 1:
                    raise FuncattrError(
                        "IBA.analyze(model_loss_fn=...): expected a function that calls the eager model with the layer "
                        f"and returns one number, got {_form(model_loss)}"
                        f"{'' if self._buffer_capacity is not None else ', and no value passed the layer'}."
                    )
                information_loss = self.capacity().mean()
                loss = model_loss.reshape(()) + beta * information_loss
                loss.backward(inputs=[alpha])  # of nothing else: the model's parameters get no .grad
                optimizer.step()
                assert alpha.grad is not None
                self._alpha_grads.append(alpha.grad.detach().cpu().numpy().copy())
                self._loss.append(loss.item())
                self._model_loss.append(model_loss.item())
                self._information_loss.append(information_loss.item())
        self._buffer_capacity = self.capacity().detach()[None]  # without its graph
        return self._get_saliency(mode, input_t.shape[2:])

    def capacity(self) -> Tensor:
        """The capacity of the last restricted call, in nats, a mean over its batch. [C, H, W]

        Raises:
            FuncattrError: If there was none.
        """
        if self._buffer_capacity is None:
            raise FuncattrError("IBA.capacity: nothing was restricted yet. Call the model within restrict_flow().")
        return self._buffer_capacity.mean(0)

    def _get_saliency(self, mode: str, size: Any) -> np.ndarray:
        nats = self.capacity().detach().cpu().numpy()
        return to_saliency_map(nats, size) if mode == "saliency" else nats / math.log(2)


def insert_into_sequential(sequential: nn.Sequential, layer: nn.Module, idx: int) -> nn.Sequential:
    """A new `nn.Sequential` of the same layers, with one more at a position.

    Example:
        >>> insert_into_sequential(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Identity(), 1)
        Sequential(
          (0): ReLU()
          (1): Identity()
          (2): Tanh()
        )
    """
    children = list(sequential.children())
    children.insert(idx, layer)
    return nn.Sequential(*children)


def _statistics(mean: Tensor, std: Tensor, active: Tensor | None, layer: str) -> FeatureStatistics:
    rows = 2  # of two rows, the sum of squares is the variance
    nonzero = torch.full_like(mean, rows).long() if active is None else rows * active.long()
    return FeatureStatistics(layer, "gaussian", rows, nonzero, mean, std**2)


def _first(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


def _form(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
