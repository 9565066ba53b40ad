"""Train the demo's readout bottleneck: `python examples/train_readout.py --out DIR`.

Which of the network's features say where a digit is? A readout bottleneck learns it once, for all digits: it sees the
features and the digit in question, and keeps the features that the network needs to find that digit. Every canvas of
the training is new. Takes some ten minutes on two CPU cores.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from train_digits import PACKAGED, Batch, Glyphs, draw, split_glyphs

from funcattr import maps, metrics, readout_iba
from funcattr.bottleneck import ReadoutBottleneck, feature_statistics, train_readout
from funcattr.demo.digits import BOTTLENECK, AskedDigitNet, missed
from funcattr.metrics.datasets.digits import load_canvases, load_model

READOUTS = ("features.3", BOTTLENECK, "features.9", "asked")
BETA = 3.0


def questions(rng: np.random.Generator, data: Batch) -> Tensor:
    """One of the digits of each canvas. [M]"""
    weights = torch.from_numpy(rng.random(data.present.shape)).float() * data.present
    return weights.argmax(1)


class Drawn:
    """New canvases in each epoch, and a question for each."""

    def __init__(self, glyphs: Glyphs, batches: int, seed: int, size: int = 32) -> None:
        self.glyphs, self.batches, self.size = glyphs, batches, size
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        for _ in range(self.batches):
            data = draw(self.rng, self.glyphs, self.size)
            asked = questions(self.rng, data)
            yield (data.images, asked), asked


@torch.no_grad()
def mass_in_box(model: AskedDigitNet, readout: ReadoutBottleneck, count: int) -> float:
    """The mean over the maps of the packaged canvases, for one question each."""
    data = load_canvases()
    digits = data.present[:count].float().argmax(1)
    bits = readout_iba(model, (data.images[:count], digits), readout=readout)
    boxes = data.boxes[torch.arange(count), digits]
    return metrics.mass_in_region(maps.resize(bits, data.images), boxes).mean().item()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the file (default: the package's own data)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of 8192 canvases each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny run, by default into a new temporary folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Look at the features, train, judge, save."""
    args = arguments(argv)
    torch.manual_seed(args.seed)
    out = args.out or (Path(tempfile.mkdtemp(prefix="train_readout_")) if args.quick else PACKAGED)
    epochs, batches, looked_at = (1, 4, 1000) if args.quick else (args.epochs, 256, 4000)

    glyphs, _ = split_glyphs(args.seed)
    model = AskedDigitNet(load_model()).eval()
    inputs = (pair for pair in Drawn(glyphs, looked_at // 32 + 1, args.seed + 3))
    layers = list(dict.fromkeys([BOTTLENECK, *READOUTS]))
    looked = tqdm(inputs, desc="features")
    found = feature_statistics(model, looked, layer=layers, examples=looked_at)
    readout = ReadoutBottleneck(found[BOTTLENECK], [found[layer] for layer in READOUTS])

    data = Drawn(glyphs, batches, args.seed + 4)
    history = train_readout(model, data, readout, loss=missed, beta=BETA, epochs=epochs, lr=1e-3, progress=True)
    for epoch, (loss, bits) in enumerate(zip(*(numbers.tolist() for numbers in history), strict=True), start=1):
        print(f"epoch {epoch}: loss {loss:.3f}, {bits:.3f} bits an element")

    print(f"mass in the asked digit's box: {mass_in_box(model, readout, 20 if args.quick else 300):.1%}")
    out.mkdir(parents=True, exist_ok=True)
    readout.save(out / "readout.safetensors")
    print(f"wrote readout.safetensors to {out}")


if __name__ == "__main__":
    main()
