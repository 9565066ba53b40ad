"""The training of a readout bottleneck: a plain loop over a frozen model."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Model, Question, ask
from ...model.access import copied
from ...model.editing import Editor
from ...model.functional import as_functional
from ...sampling.draws import Generator, normal, seed_from
from ...sampling.loops import positive
from .flow import behind, gate_of, in_bits, information, prior_of
from .losses import Loss, loss_of
from .readout import ReadoutBottleneck, values_in_front

CALL = "train_readout"


class ReadoutTraining(NamedTuple):
    """The history of a training: means over each epoch.

    Attributes:
        loss: The model's loss behind the bottleneck. [epochs]
        information: Mean capacity of the elements, in bits. [epochs]
    """

    loss: Tensor
    information: Tensor


def train_readout(
    model: Model,
    batches: Iterable[Any],
    readout: ReadoutBottleneck,
    *,
    beta: float = 10.0,
    epochs: int = 10,
    lr: float = 1e-5,
    sigma: float | None = 1.0,
    relu: bool = False,
    loss: Loss | None = None,
    checkpoint: str | Path | None = None,
    generator: Generator = 0,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> ReadoutTraining:
    """Train a readout bottleneck to keep a frozen model's answers, and little else.

    min_w  mean of loss(f(z)) + beta mean(capacity), by Adam; z as in `iba`, with one noise sample for each example

    Args:
        model: As in `iba`. Not modified.
        batches: Pairs (inputs, target), a DataLoader say; gone through once in each epoch. The inputs are a tensor, a
            tuple or a dict.
        readout: The network. It is trained in place; its device is that of its parameters.
        beta: Weight of the information.
        epochs: In all, those of a checkpoint counted in.
        lr: Adam's learning rate.
        sigma, relu: As in `iba`.
        loss: `(output, target) -> [N]`; by default the cross-entropy.
        checkpoint: A file that is written after each epoch. If it is there, the training goes on from it, as if it had
            not stopped, given the same batches.
        generator: A seed, or a `torch.Generator` from which one is drawn, for the noise.
        progress: Whether to show a progress bar.
        output, args, kwargs, example_dims: As in `gradient`; the dimension of "layer" is that of all the readout's
            sites. Where x is one example, so are the inputs of each pair.

    Returns:
        A `ReadoutTraining`.

    Raises:
        ValueError: If there are no batches, a batch is no pair, or the loss is not one number for each example.

    Example:
        >>> import torch, funcattr
        >>> conv = torch.nn.Conv2d(1, 4, 3)
        >>> model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> images, classes = torch.randn(1000, 1, 8, 8), torch.randint(2, (1000,))
        >>> found = funcattr.bottleneck.feature_statistics(model, images, layer=["1", "3"])
        >>> readout = funcattr.bottleneck.ReadoutBottleneck(found["1"], found.values())
        >>> batches = list(zip(images.split(100), classes.split(100)))
        >>> funcattr.bottleneck.train_readout(model, batches, readout, epochs=2, lr=1e-3).loss.shape
        torch.Size([2])

    References:
        Schulz et al., 2020, arXiv:2001.00396, section 3.3 and appendix B.
    """
    if not isinstance(readout, ReadoutBottleneck):
        raise TypeError(f"{CALL}(readout=...): expected a ReadoutBottleneck, got {type(readout).__name__}.")
    count, seed, fm = positive(CALL, "epochs", epochs), seed_from(CALL, generator), as_functional(model)
    optimizer = torch.optim.Adam(readout.parameters(), lr=lr)
    history = _resumed(checkpoint, readout, optimizer)
    training = _Training(readout, sigma, relu, loss, seed)
    for epoch in range(len(history), count):
        totals, seen = torch.zeros(2, dtype=torch.float64), 0
        for batch in tqdm(batches, disable=not progress, desc=f"{CALL} {epoch + 1}/{count}", leave=False):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise ValueError(f"{CALL}(batches=...): expected pairs (inputs, target).")
            x, target = batch
            question = ask(CALL, fm, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
            examples = question.examples
            losses, nats = _losses(training, question, epoch, torch.arange(seen, seen + examples))
            optimizer.zero_grad(set_to_none=True)
            (losses.mean() + beta * nats.mean()).backward()
            optimizer.step()
            totals += examples * torch.stack([losses.mean(), nats.mean()]).detach().double().cpu()
            seen += examples
        if seen == 0:
            raise ValueError(f"{CALL}(batches=...): epoch {epoch + 1} has none. An iterator is used up by one.")
        history.append((totals / seen).tolist())
        _save(checkpoint, readout, optimizer, history)
    optimizer.zero_grad(set_to_none=True)
    result = torch.tensor(history).reshape(-1, 2)
    return ReadoutTraining(result[:, 0], in_bits(result[:, 1]))


class _Training(NamedTuple):
    """The options of a training, as in `train_readout`."""

    readout: ReadoutBottleneck
    sigma: float | None
    relu: bool
    loss: Loss | None
    seed: int


def _losses(training: _Training, question: Question, epoch: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """The model's loss behind the bottleneck for each example [N], and its capacities in nats [N, C, H, W]."""
    readout, layer, call = training.readout, training.readout.statistics.layer, question.call
    with torch.no_grad():
        values = values_in_front(question, readout)
    value = values[layer]
    prior = prior_of(call, readout.statistics, value, readout.min_std, training.relu)
    wide = value.to(prior.mean.dtype)
    gate = gate_of(call, readout(values).to(wide.dtype), training.sigma, None)
    noise = normal(index, value.shape[1:], wide, training.seed, epoch)
    z = behind(wide, gate, noise, prior).to(value.dtype)
    positional, keyword = copied(question.arguments)
    with Editor({layer: lambda _: question.layer_as_given(z)}) as editor:
        whole = editor.finished(question.model(*positional, **keyword))
    output = question.output_in_front(question.picked(whole))
    return loss_of(call, training.loss, output, question.target, len(index)), information(wide, gate, prior)


def _resumed(path: str | Path | None, readout: ReadoutBottleneck, optimizer: torch.optim.Optimizer) -> list[Any]:
    if path is None or not Path(path).exists():
        return []
    state = torch.load(path, weights_only=True, map_location=next(readout.parameters()).device)
    readout.load_state_dict(state["weights"])
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # the one that is asked for now
    return state["history"]


def _save(
    path: str | Path | None, readout: ReadoutBottleneck, optimizer: torch.optim.Optimizer, history: list[Any]
) -> None:
    if path is None:
        return
    part = Path(f"{path}.part")  # a training that is stopped here leaves the last checkpoint whole
    torch.save({"weights": readout.state_dict(), "optimizer": optimizer.state_dict(), "history": history}, part)
    os.replace(part, path)
