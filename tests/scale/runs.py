"""A small network, data with broken examples, and ways to look at a run's folder."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def network() -> nn.Module:
    """A small convolutional network with fixed weights. [N, 3, 8, 8] -> [N, 4]"""
    torch.manual_seed(5)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    return nn.Sequential(*layers).eval()


def images(count: int = 23) -> Tensor:
    """Images with nothing in common. [count, 3, 8, 8]"""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Broken:
    """Data of which some examples cannot be read, and others hold a number that is none or have another shape."""

    def __init__(self, x: Tensor, unreadable: Any = (), nan: Any = (), infinite: Any = (), odd: Any = ()) -> None:
        self.x, self.unreadable, self.nan, self.infinite, self.odd = x, unreadable, nan, infinite, odd

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        if index in self.unreadable:
            raise OSError(f"truncated image {index}")
        x = self.x[index].clone()
        if index in self.nan:
            x[0, 0, 0] = float("nan")
        if index in self.infinite:
            x[1, 2, 3] = float("inf")
        return x[:2] if index in self.odd else x


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, and a hash of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
