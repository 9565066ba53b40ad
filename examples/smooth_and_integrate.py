"""How noise and paths repair a gradient: `python examples/smooth_and_integrate.py`.

The model is a function of 20 features whose gradient misleads. It saturates, so that far from zero nothing seems to
matter; and it has a ripple, too small to change the output but steep. The true share of each feature is known: weight
times value. The script asks four methods for it. It prints how well each answer agrees (the mean cosine with the
truth), and how far its sum is from the output's rise. It runs in a second or two.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr

FEATURES, EXAMPLES = 20, 100


def model(x: Tensor, weight: Tensor) -> Tensor:
    """Saturation and ripple. [N, 20] -> [N]"""
    return 5 * torch.tanh(x @ weight / 5) + 0.01 * torch.sin(100 * x).sum(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw data, explain, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="noisy copies, points and draws for each example")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(options.seed)
    weight = torch.randn(FEATURES, generator=generator)
    data = torch.randn(2 * EXAMPLES, FEATURES, generator=generator)
    x, others = data[:EXAMPLES], data[EXAMPLES:]

    given = {"kwargs": {"weight": weight}}
    product = partial(funcattr.input_x_gradient, model, **given)
    rows = funcattr.distribution(others)
    path = {"chunk_size": options.samples, **given}
    smooth = funcattr.noise_tunnel(product, x, samples=options.samples, sigma=0.5, chunk_size=options.samples)
    integrated = funcattr.integrated_gradients(model, x, steps=options.samples, **path)
    expected = funcattr.expected_gradients(model, x, baseline=rows, samples=options.samples, **path)

    answers = {
        "input x gradient": (product(x), x * weight),
        "the same, smoothed": (smooth, x * weight),
        "integrated gradients": (integrated, x * weight),
        "expected gradients": (expected, (x - others.mean(0)) * weight),
    }
    print("agreement with the truth:")
    for name, (answer, truth) in answers.items():
        print(f"  {name:<22} {F.cosine_similarity(answer, truth).mean():.1%}")

    output = model(x, weight)
    rise = output - model(torch.zeros_like(x), weight)
    drawn = {"baseline": rows, "samples": options.samples}
    misses = {
        "input x gradient, sum": product(x).sum(1) - rise,
        "smoothed, sum": smooth.sum(1) - rise,
        "integrated, sum": funcattr.metrics.completeness(model, x, None, integrated, **path),
        "expected, sum": funcattr.metrics.completeness(model, x, None, expected, **drawn, **path),
    }
    print("the sum misses the rise by (of the mean output):")
    for name, miss in misses.items():
        print(f"  {name:<22} {miss.abs().mean() / output.abs().mean():.1%}")


if __name__ == "__main__":
    main()
