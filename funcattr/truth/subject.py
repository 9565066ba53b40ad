"""What is measured: a network, questions about its inputs, the methods that are asked, and the measures of answers."""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Units = Literal["gradient", "share", "none"]
"""What a method's numbers are: rates of change, shares of the output (or of its rise), or neither."""


class Questions(NamedTuple):
    """Some examples of one shape, what is asked of each, and where the answer is."""

    x: Tensor
    """[N, C, H, W], or the embeddings of tokens [N, T, D]."""
    target: Tensor
    """The class that is asked for. [N]"""
    baseline: Tensor
    """What stands for nothing; broadcasts to x."""
    blurred: Tensor
    """What insertion starts from; broadcasts to x."""
    features: Tensor
    """The feature of each value, for measures that remove some; broadcasts to x."""
    coarse: Tensor
    """The same, larger ones, for searches that try each."""
    regions: Tensor | None = None
    """Where the answer is: boxes [N, 4], or of tokens bool [N, 1, T]."""


class Method(NamedTuple):
    """A method as it is asked."""

    name: str
    attribute: Callable[[Any, Tensor, Tensor], Tensor]
    """(model, x, target) -> attributions, of x's shape, or a map of a layer's size."""
    reduce: Callable[[Tensor, Tensor], Tensor]
    """(attributions, x) -> one number for each place: [N, 1, H, W], or [N, T, 1]"""
    units: Units = "none"
    passes: int = 3
    """What a question costs in forward passes: a reverse pass counts for two."""
    sums_to: Literal["output", "rise", "nothing"] = "nothing"
    """What the attributions of an example are meant to sum to."""


class Subject(NamedTuple):
    """A network and what it is asked."""

    name: str
    title: str
    model: nn.Module
    questions: tuple[Questions, ...]
    """Each is asked at once."""
    methods: tuple[Method, ...]
    steps: int
    """Points of a curve."""
    filled: int
    """Points of a curve whose removed pixels are filled from their neighbours, which takes long."""
    layers: int
    """At how many points of the cascade of random layers maps are compared; 1: when all are random."""
    tiles: tuple[int, ...]
    """Sides of the tiles of the bottleneck paper's degradation, in pixels; of photographs."""
    radius: float
    """How far `max_sensitivity` moves a value of x."""

    @property
    def asked(self) -> int:
        """The number of questions."""
        return sum(len(questions.target) for questions in self.questions)


class Case(NamedTuple):
    """A method's answer to some questions, as a measure gets it."""

    subject: Subject
    questions: Questions
    method: Method
    attributions: Tensor
    """As the method gave them."""
    places: Tensor
    """One number for each place."""
    remembered: Callable[[Tensor], Tensor]
    """The network, which computes no batch twice."""


class Measure(NamedTuple):
    """A measure of answers."""

    name: str
    better: Literal["high", "low", "neither"]
    judge: Callable[[Case], "Tensor | str"]
    """A number for each question [N], or why there is none."""
    asks: str
    """What it asks, in a few words."""

    def signed(self, value: float) -> float:
        """The value so that more is better."""
        return -value if self.better == "low" else value


def seconds_of(model: nn.Module, x: Tensor, repeats: int = 3) -> float:
    """What a plain forward and backward pass of a batch takes: the median of some.

    Args:
        model: The network.
        x: The batch.
        repeats: How many passes.
    """
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.func.grad(lambda x: model(x).sum())(x)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]
