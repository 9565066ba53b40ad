"""The readout bottleneck: a small network that predicts the alpha of an information bottleneck."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Model, Question, ask
from ...model.access import values_at
from .feature_statistics import TENSORS, FeatureStatistics, check_value
from .flow import gate_of, in_bits, information, prior_of, to_saliency_map
from .iba import Per

CALL = "readout_iba"
LIMIT = 5.0


class ReadoutBottleneck(nn.Module):
    """The alpha of a bottleneck from values elsewhere in the model, by three convolutions of single positions.

    alpha = clamp(W3 relu(W2 relu(W1 r)), -5, 5),  r = the readouts, normalised, at the size of the bottleneck's layer

    W1 halves the channels of r, W2 makes twice the layer's, W3 those of the layer. Starts as the identity: alpha is 5.

    Args:
        statistics: Of the bottleneck's layer, [C, H, W] an example.
        readouts: Of the sites that are read, [C', H', W'] or [D] an example; anywhere in the model.
        min_std: Smallest standard deviation that is divided by.

    Raises:
        ValueError: If the statistics are of other shapes.
        TypeError: If they are no FeatureStatistics.

    Example:
        >>> import torch, funcattr
        >>> conv = torch.nn.Conv2d(1, 4, 3)
        >>> model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> batches = torch.randn(1000, 1, 8, 8)
        >>> found = funcattr.bottleneck.feature_statistics(model, batches, layer=["1", "3"])
        >>> readout = funcattr.bottleneck.ReadoutBottleneck(found["1"], found.values())
        >>> funcattr.readout_iba(model, torch.randn(2, 1, 8, 8), readout=readout).shape
        torch.Size([2, 1, 8, 8])

    References:
        Schulz et al., 2020, arXiv:2001.00396, section 3.3 and figure 4.
    """

    def __init__(
        self, statistics: FeatureStatistics, readouts: Iterable[FeatureStatistics], *, min_std: float = 0.01
    ) -> None:
        super().__init__()
        self.statistics, self.readouts, self.min_std = statistics, tuple(readouts), min_std
        for given in (statistics, *self.readouts):
            if not isinstance(given, FeatureStatistics):
                raise TypeError(f"ReadoutBottleneck: expected FeatureStatistics, got {type(given).__name__}.")
        if len(statistics.shape) != 3:
            raise ValueError(
                f"ReadoutBottleneck(statistics=...): expected a layer of shape [C, H, W] an example, got "
                f"{list(statistics.shape)}."
            )
        if not self.readouts or any(len(r.shape) not in (1, 3) for r in self.readouts):
            shapes = [list(r.shape) for r in self.readouts]
            raise ValueError(f"ReadoutBottleneck(readouts=...): expected shapes [C, H, W] or [D], got {shapes}.")
        read, channels = sum(r.shape[0] for r in self.readouts), statistics.shape[0]
        hidden = max(1, read // 2)
        self.first = nn.Conv2d(read, hidden, 1)
        self.second = nn.Conv2d(hidden, 2 * channels, 1)
        self.last = nn.Conv2d(2 * channels, channels, 1)
        with torch.no_grad():
            self.last.weight.mul_(1e-3)
            self.last.bias.fill_(LIMIT)  # type: ignore[union-attr]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of a model whose values it needs: those it reads, and the layer of the bottleneck."""
        return tuple(dict.fromkeys((*(r.layer for r in self.readouts), self.statistics.layer)))

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """alpha, from the value of each site. [N, C, H, W]"""
        read = torch.cat([self._normalised(statistics, values[statistics.layer]) for statistics in self.readouts], 1)
        return self.last(F.relu(self.second(F.relu(self.first(read))))).clamp(-LIMIT, LIMIT)

    def _normalised(self, statistics: FeatureStatistics, value: Tensor) -> Tensor:
        check_value(CALL, statistics.layer, value, len(value))
        prior = prior_of(CALL, statistics, value, self.min_std)
        read = ((value - prior.mean) / prior.std).to(self.first.weight.dtype)
        size = [int(length) for length in self.statistics.shape[1:]]
        if read.ndim == 2:
            return read[:, :, None, None].expand(*read.shape, *size)
        return F.interpolate(read, size, mode="bilinear", align_corners=True)

    def save(self, path: str | Path) -> None:
        """Write weights and statistics to a safetensors file."""
        packed = [statistics.packed() for statistics in (self.statistics, *self.readouts)]
        tensors = {f"weights.{name}": tensor.contiguous() for name, tensor in self.state_dict().items()}
        for i, (_, own) in enumerate(packed):
            tensors |= {f"statistics.{i}.{name}": tensor.clone() for name, tensor in own.items()}
        about = {"statistics": [about for about, _ in packed], "min_std": self.min_std}
        save_file(tensors, path, metadata={"readout_bottleneck": json.dumps(about)})

    @staticmethod
    def load(path: str | Path) -> "ReadoutBottleneck":
        """Read a file of `save`.

        Raises:
            ValueError: If the file is another.
        """
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("readout_bottleneck")
            if found is None:
                raise ValueError(f"ReadoutBottleneck.load({str(path)!r}): the file holds no readout bottleneck.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is no dict)
        about = json.loads(found)
        own, *readouts = (
            FeatureStatistics(**plain, **{name: tensors[f"statistics.{i}.{name}"] for name in TENSORS})
            for i, plain in enumerate(about["statistics"])
        )
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            readout = ReadoutBottleneck(own, readouts, min_std=about["min_std"])
        weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
        readout.to(weights["last.weight"].dtype).load_state_dict(weights)
        return readout


def readout_iba(
    model: Model,
    x: Any,
    target: None = None,
    *,
    readout: ReadoutBottleneck,
    sigma: float | None = 1.0,
    per: Per = "position",
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Information bottleneck attribution by a trained readout network: one forward pass for all examples.

    It explains the model's answer as a whole: the network has seen no class in its training, unless the model has a
    site that says which (`funcattr.site`).

    Args:
        model, args, kwargs, example_dims: As in `iba`; the dimension of "layer" is that of all the readout's sites.
        x: Input, [N, ...]; a tuple or mapping of inputs.
        target: None; there is no choice of one.
        readout: A `ReadoutBottleneck` for this model, trained by `train_readout`.
        sigma: As in `iba`, and as in the training.
        per: "position" or "element".
        progress, output: As in `iba`, for whoever exchanges the two: there is no loop, and no output is explained.

    Returns:
        Bits, as `iba`: [N, 1, H, W], or [N, C, h, w] per element; with `example_dims` the examples are where the layer
        has them.

    Raises:
        ValueError: If a target is given, or the model's layers have other shapes than the readout's statistics.
        UnknownSiteError: If the model has not the readout's sites.

    Example:
        See `ReadoutBottleneck`.

    References:
        Schulz et al., 2020, arXiv:2001.00396, section 3.3.
    """
    if per not in get_args(Per):
        raise ValueError(f"{CALL}(per={per!r}): expected 'position' or 'element'.")
    if not isinstance(readout, ReadoutBottleneck):
        raise TypeError(f"{CALL}(readout=...): expected a ReadoutBottleneck, got {type(readout).__name__}.")
    if target is not None:
        raise ValueError(f"{CALL}(target={target!r}): a readout explains the answer as a whole; iba takes a target.")
    question = ask(CALL, model, x, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    values = values_in_front(question, readout)
    value = values[readout.statistics.layer]
    check_value(CALL, readout.statistics.layer, value, question.examples)
    prior = prior_of(CALL, readout.statistics, value, readout.min_std)
    weights = {name: weight.detach() for name, weight in readout.named_parameters()}
    alpha = functional_call(readout, weights, (values,))
    gate = gate_of(CALL, alpha.to(prior.mean.dtype), sigma, None)
    bits = in_bits(information(value.to(prior.mean.dtype), gate, prior)).to(value.dtype)
    if per == "element":
        return question.layer_as_given(bits)
    is_image = isinstance(question.x, Tensor) and question.x.ndim == 4
    return question.layer_as_given(to_saliency_map(bits, tuple(question.x.shape[2:]) if is_image else None))


def values_in_front(question: Question, readout: ReadoutBottleneck) -> dict[str, Any]:
    """The values at the sites of a readout, with their examples in front."""
    values = values_at(question.call, question.model, readout.sites, question.arguments)
    return {
        name: question._replace(layer=name).at_layer(value) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
