"""Make the demo's data and train its network: `python examples/train_digits.py --out DIR`.

A canvas shows two to four different digits (scikit-learn's 8x8 handwritten ones, enlarged) that do not
overlap, over clutter: faint strokes, scattered quarters of digits, and noise. Every canvas of the training is
new; the held-out canvases use digit images that training never sees. Takes some six minutes on one CPU core.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from funcattr.metrics.datasets.digits import CLASSES, DigitNet

SIZE = 64
"""Height and width of a canvas, in pixels."""
INK = 0.2
"""Pixels of an enlarged digit brighter than this count for its box."""
PACKAGED = Path(__file__).resolve().parent.parent / "funcattr" / "metrics" / "datasets" / "data"


class Glyphs(NamedTuple):
    """Single handwritten digits."""

    pixels: Tensor
    """Float32 in 0..1. [K, 8, 8]"""
    labels: np.ndarray
    """[K]"""


class Batch(NamedTuple):
    """Canvases and the boxes of their digits, see `funcattr.metrics.datasets.digits.Canvases`."""

    images: Tensor
    """Float32 in 0..1. [M, 1, 64, 64]"""
    boxes: Tensor
    """Int16, -1 where absent. [M, 10, 4]"""

    @property
    def present(self) -> Tensor:
        """Float32 zeros and ones. [M, 10]"""
        return (self.boxes[..., 0] >= 0).float()


def split_glyphs(seed: int, held_out: float = 0.3) -> tuple[Glyphs, Glyphs]:
    """Disjoint handwritten digits for training and for the held-out canvases."""
    flat, labels = (np.asarray(part) for part in load_digits(return_X_y=True))  # [K, 64] in 0..16, [K]
    pixels = torch.from_numpy(flat / 16).float().reshape(-1, 8, 8)
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = int(len(order) * held_out)
    train, test = order[cut:], order[:cut]
    return Glyphs(pixels[train], labels[train]), Glyphs(pixels[test], labels[test])


def enlarge(pixels: Tensor, size: int) -> Tensor:
    """Bilinear upsampling of one small image. [h, w] -> [size, size]"""
    return F.interpolate(pixels[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def place(rng: np.random.Generator, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Top left corners at which squares of these sizes do not overlap; starts anew when out of room."""
    while True:
        corners: list[tuple[int, int]] = []
        for size in sizes:
            for _ in range(20):
                top, left = (int(v) for v in rng.integers(0, SIZE - size + 1, 2))
                if all(
                    top + size <= t or t + s <= top or left + size <= w or w + s <= left
                    for (t, w), s in zip(corners, sizes, strict=False)
                ):
                    corners.append((top, left))
                    break
        if len(corners) == len(sizes):
            return corners


def clutter(rng: np.random.Generator, glyphs: Glyphs) -> Tensor:
    """A background: faint straight strokes, quarters of random digits, Gaussian noise. [64, 64]"""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    canvas = torch.zeros(SIZE, SIZE)
    for _ in range(rng.integers(2, 6)):
        (y, x), angle = rng.uniform(0, SIZE, 2), rng.uniform(0, np.pi)
        along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        stroke = torch.exp(-((across / rng.uniform(0.7, 1.5)) ** 2)) * (along.abs() < rng.uniform(4, 14))
        canvas = torch.maximum(canvas, rng.uniform(0.15, 0.4) * stroke.float())
    for _ in range(rng.integers(4, 10)):
        y, x = rng.integers(0, 5, 2)
        size = int(rng.integers(7, 13))
        top, left = rng.integers(0, SIZE - size + 1, 2)
        piece = enlarge(glyphs.pixels[rng.integers(len(glyphs.labels)), y : y + 4, x : x + 4], size)
        window = canvas[top : top + size, left : left + size]
        window.copy_(torch.maximum(window, rng.uniform(0.2, 0.5) * piece))
    noise = torch.from_numpy(rng.normal(0, 0.04, (SIZE, SIZE))).float()
    return canvas + noise


def draw_canvas(rng: np.random.Generator, glyphs: Glyphs) -> tuple[Tensor, Tensor]:
    """One canvas [64, 64] and its boxes [10, 4]."""
    canvas, boxes = clutter(rng, glyphs), torch.full((CLASSES, 4), -1, dtype=torch.int16)
    digits = rng.permutation(CLASSES)[: rng.integers(2, 5)]
    sizes = [int(size) for size in rng.integers(14, 25, len(digits))]
    for digit, size, (top, left) in zip(digits, sizes, place(rng, sizes), strict=True):
        glyph = enlarge(glyphs.pixels[rng.choice(np.flatnonzero(glyphs.labels == digit))], size)
        window = canvas[top : top + size, left : left + size]
        window.copy_(torch.maximum(window, rng.uniform(0.7, 1.0) * glyph))
        inked = (glyph > INK).nonzero()  # [number of pixels, 2]
        (first_row, first_column), (last_row, last_column) = inked.amin(0).tolist(), inked.amax(0).tolist()
        box = top + first_row, left + first_column, top + last_row + 1, left + last_column + 1
        boxes[int(digit)] = torch.tensor(box, dtype=torch.int16)
    return canvas.clamp(0, 1), boxes


def draw(rng: np.random.Generator, glyphs: Glyphs, count: int) -> Batch:
    """`count` canvases, with pixels rounded to eight bits as they are stored."""
    images, boxes = zip(*(draw_canvas(rng, glyphs) for _ in range(count)), strict=True)
    return Batch(torch.stack(images)[:, None].mul(255).round() / 255, torch.stack(boxes))


def train(model: DigitNet, glyphs: Glyphs, *, epochs: int, canvases: int, seed: int, batch: int = 32) -> None:
    """AdamW with a one-cycle learning rate, on the binary cross-entropy of each label and new canvases."""
    rng = np.random.default_rng(seed)
    steps = canvases // batch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps, pct_start=0.2)
    with tqdm(total=epochs * steps, desc="training", unit="batch") as bar:
        for _ in range(epochs * steps):
            data = draw(rng, glyphs, batch)
            loss = F.binary_cross_entropy_with_logits(model(data.images), data.present)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


@torch.no_grad()
def label_accuracy(model: DigitNet, data: Batch) -> float:
    """The share of all (canvas, digit) pairs in which "is it there?" is answered right."""
    answers = model(data.images) > 0
    return (answers == data.present.bool()).float().mean().item()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the two files (default: the package's own data)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of 4096 canvases each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny run, by default into a new temporary folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, train, judge, save."""
    args = arguments(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # sums in the same order on every machine
    out = args.out or (Path(tempfile.mkdtemp(prefix="train_digits_")) if args.quick else PACKAGED)
    epochs, canvases, held_out = (1, 128, 20) if args.quick else (args.epochs, 4096, 300)

    train_glyphs, test_glyphs = split_glyphs(args.seed)
    test = draw(np.random.default_rng(args.seed + 1), test_glyphs, held_out)
    model = DigitNet()
    train(model, train_glyphs, epochs=epochs, canvases=canvases, seed=args.seed + 2)

    print(f"held-out accuracy per label: {label_accuracy(model, test):.2%} on {held_out} canvases")
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "digit_net.safetensors")
    pixels = test.images.mul(255).round().byte()
    save_file({"images": pixels, "boxes": test.boxes}, out / "canvases.safetensors")
    print(f"wrote digit_net.safetensors and canvases.safetensors to {out}")


if __name__ == "__main__":
    main()
