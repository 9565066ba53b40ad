"""Which part of a map comes from the image, and which from chance in training? `python examples/ensemble.py`.

Each image is noise with one of six small patterns somewhere in it; the pattern is the class. Networks that differ in
their initial weights and training images learn it, all at once by `vmap` over their stacked parameters. Then one
compiled function gives every network's map of every image, for the answer that they give together: by guided
backpropagation, and by layer-wise relevance propagation.

The script prints how much of the attribution lies in the pattern's square: for one network, in the mean of all maps, in
the pixels where the networks agree (the mean is larger than the standard deviation), and in the standard deviation
itself. Last, it prints how many answers are right where the maps agree, and where they do not. Agreement needs no
knowledge of the truth. Takes some ten seconds on one CPU core. `--backend inductor` generates code for the maps, which
takes a C++ compiler and a minute.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr

SIZE, PATTERN, CLASSES = 12, 4, 6
METHODS: dict[str, Callable[..., Tensor]] = {
    "guided_backprop": funcattr.guided_backprop,
    "lrp, epsilon_plus": partial(funcattr.lrp, rules="epsilon_plus"),
}
Params = dict[str, Tensor]


class Images(NamedTuple):
    """Noise with a pattern in it."""

    pixels: Tensor
    """[N, 1, 12, 12]"""
    classes: Tensor
    """Which pattern it is. [N]"""
    square: Tensor
    """1 in the pattern's square, else 0. [N, 1, 12, 12]"""


def draw(count: int, patterns: Tensor, generator: torch.Generator) -> Images:
    """Random images: a pattern, its place, and the noise on it and around it."""
    classes = torch.randint(CLASSES, (count,), generator=generator)
    corner = torch.randint(SIZE - PATTERN + 1, (2, count, 1), generator=generator)
    along = (torch.arange(SIZE) >= corner) & (torch.arange(SIZE) < corner + PATTERN)
    square = (along[0, :, :, None] & along[1, :, None, :])[:, None]
    pixels = 0.6 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    pixels[square] += patterns[classes].flatten()
    return Images(pixels, classes, square.float())


def build() -> nn.Module:
    """A small convolutional network, with random weights."""
    body = nn.Conv2d(1, 16, PATTERN), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(144, CLASSES))


def trained(
    fm: funcattr.FunctionalModel, stacked: Params, patterns: Tensor, generator: torch.Generator, *, steps: int
) -> Params:
    """Stacked parameters after some steps of Adam, each network on images of its own."""

    def loss(params: Params, x: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(fm.bind(params)(x), classes)

    members = len(next(iter(stacked.values())))
    optimizer = torch.optim.Adam(stacked.values(), lr=3e-3)
    for _ in range(steps):
        images = draw(64 * members, patterns, generator)
        x, classes = (part.unflatten(0, (members, 64)) for part in images[:2])
        optimizer.zero_grad()
        torch.vmap(loss)(stacked, x, classes).sum().backward()
        optimizer.step()
    return {name: p.detach() for name, p in stacked.items()}


def share(maps: Tensor, square: Tensor) -> Tensor:
    """How much of the absolute attribution lies in the square. [..., N, 1, 12, 12] -> [..., N]"""
    total = maps.abs().sum((-3, -2, -1))
    return (maps.abs() * square).sum((-3, -2, -1)) / total.clamp(min=1e-12)


def explained(
    fm: funcattr.FunctionalModel, stacked: Params, x: Tensor, answers: Tensor, method: Callable[..., Tensor], **how: Any
) -> tuple[Tensor, float]:
    """All networks' maps from one compiled function, and how many values equal a loop's. [members, N, 1, 12, 12]"""

    def explain(params: Params, x: Tensor, answers: Tensor) -> Tensor:
        return method(fm.bind(params), x, answers)

    maps = torch.compile(torch.vmap(explain, in_dims=(0, None, None)), fullgraph=True, **how)(stacked, x, answers)
    members = [{name: p[i] for name, p in stacked.items()} for i in range(len(maps))]
    loop = torch.stack([explain(params, x, answers) for params in members])
    return maps, torch.isclose(maps, loop, rtol=1e-3, atol=1e-5 * loop.abs().max().item()).float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    """Train, explain all at once, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=5, help="networks in the ensemble")
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # sums in the same order on every machine
    generator = torch.Generator().manual_seed(options.seed)
    patterns = torch.randn(CLASSES, PATTERN, PATTERN, generator=generator).sign()

    nets = [build() for _ in range(options.members)]
    fm = funcattr.functionalize(nets[0])
    stacked = trained(fm, torch.func.stack_module_state(nets)[0], patterns, generator, steps=150)
    x, classes, square = draw(400, patterns, generator)
    votes = torch.vmap(lambda params: fm.bind(params)(x))(stacked).softmax(-1)
    answers = votes.mean(0).argmax(-1)
    right = (answers == classes).float()
    print(f"right answers, one network: {(votes.argmax(-1) == classes).float().mean():.1%}")
    print(f"right answers, all together: {right.mean():.1%}")
    print(f"the square, of the image: {square.mean():.1%}")

    for name, method in METHODS.items():
        maps, near = explained(fm, stacked, x, answers, method, backend=options.backend)
        mean, std = maps.mean(0), maps.std(0)
        disputed = (std.square().sum((1, 2, 3)) / mean.square().sum((1, 2, 3))).argsort()
        print(f"{name}, values that equal a loop: {near:.1%}")
        print(f"{name}, one network: {share(maps, square).mean():.1%}")
        print(f"{name}, mean map: {share(mean, square).mean():.1%}")
        print(f"{name}, where they agree: {share(mean * (mean.abs() > std), square).mean():.1%}")
        print(f"{name}, standard deviation: {share(std, square).mean():.1%}")
        print(f"{name}, right answers, the 200 images they agree on most: {right[disputed[:200]].mean():.1%}")
        print(f"{name}, right answers, the other 200: {right[disputed[200:]].mean():.1%}")


if __name__ == "__main__":
    main()
