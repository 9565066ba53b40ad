"""A state_dict from a file into a module. No pickled code runs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .command_error import CommandError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def load_weights(module: nn.Module, file: Path) -> None:
    """Write the file's tensors into the module. Every name must be there, and no other.

    Raises:
        CommandError: If the file is missing, no state_dict, or that of another model.
    """
    state = _read(file)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        got = f"the keys {_some(map(str, state))}" if isinstance(state, Mapping) else type(state).__name__
        raise CommandError(
            f"--weights {file}: expected a state_dict, names with tensors, got {got}. Save one: "
            "torch.save(model.state_dict(), FILE)."
        )
    try:
        missing, unexpected = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # a tensor of another shape
        found = " ".join(str(error).split()[:60])
        raise CommandError(f"--weights {file}: expected the weights of this model. {found}. {_WAY_OUT}") from error
    if missing or unexpected:
        parts = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("also has", unexpected)) if names]
        raise CommandError(
            f"--weights {file}: expected the weights of this model; the file {' and '.join(parts)}. {_WAY_OUT}"
        )


_WAY_OUT = "A model with changes of its own is given as --model module.py:factory."


def _read(file: Path) -> Any:
    if not file.is_file():
        raise CommandError(f"--weights {file}: no such file.")
    if file.suffix not in SUFFIXES:
        raise CommandError(f"--weights {file}: expected a file that ends in {', '.join(SUFFIXES)}.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError) as error:
        raise CommandError(
            f"--weights {file}: expected tensors only, in {file.suffix}, and could not read them "
            f"({type(error).__name__}). Save the state_dict anew: torch.save(model.state_dict(), FILE)."
        ) from error


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
