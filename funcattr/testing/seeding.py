"""Random parameters, the same at every build, without touching the global random state."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def settle(build: Callable[[], nn.Module], *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build a model, fill it with seeded random values and return it in eval mode.

    Nothing is left at 0 or 1: a wrong rule for a bias, a running mean or a scale must show in the numbers.
    """
    with torch.random.fork_rng(devices=[]):  # construction draws (unused) initial weights
        model = build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            _fill(name.rpartition(".")[2], value, generator)
    return model.to(dtype).eval()


def _fill(name: str, value: Tensor, generator: torch.Generator) -> None:
    if name == "running_mean" or ("bias" in name and value.dim() == 1):  # bias_ih_l0 of a recurrent layer is one
        value.normal_(0.0, 0.2, generator=generator)
    elif name == "running_var" or (name.endswith("weight") and value.dim() == 1):
        value.uniform_(0.5, 1.5, generator=generator)
    elif isinstance(value, nn.Parameter):
        experts = name.endswith("_proj")  # [experts, out, in], one parameter for all
        fan_in = value.shape[-1] if experts else value[0].numel()
        value.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)


def uniform(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return seeded values in [-2, 2). [*shape]"""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 4 - 2).to(dtype)
