"""Random numbers of a run: each a function of the run's seed and of the place in the data, and of nothing else."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_at(seed: int, what: str, position: int) -> int:
    """The seed of what happens at a position of the data; of 62 bits, so that every generator takes it."""
    digest = hashlib.blake2b(f"{seed} {what} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


@contextmanager
def own_draws(device: torch.device) -> Iterator[None]:
    """Torch's, NumPy's and Python's global generators as they were, whatever is drawn meanwhile."""
    numpy, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


def sow(seed: int, device: torch.device) -> None:
    """Seed all global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: it takes longer than all the others.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
