"""A model from a Python file: the module that one of its callables returns."""

import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from .command_error import CommandError, one_line
from .loaded import Loaded
from .weights import load_weights


def load_factory(file: Path, factory: str, weights: Path | None) -> Loaded:
    """The module that a callable in a Python file returns."""
    call = f"--model {file}:{factory}"
    if not file.is_file():
        raise CommandError(f"{call}: no such file.")
    source = _imported(call, file)
    make = getattr(source, factory, None)
    if make is None:
        names = [name for name, value in vars(source).items() if callable(value) and not name.startswith("_")]
        closest = difflib.get_close_matches(factory, names, n=3) or names[:5]
        raise CommandError(
            f"{call}: expected a callable in {file.name}; it has {', '.join(map(repr, closest)) or 'none'}."
        )
    if isinstance(make, nn.Module) or not callable(make):
        raise CommandError(
            f"{call}: expected a callable that returns the module, got {type(make).__name__}. Write a function."
        )
    try:
        module = make()
    except Exception as error:
        raise CommandError(f"{call}: {factory}() raised {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise CommandError(f"{call}: expected {factory}() to return a torch.nn.Module, got {type(module).__name__}.")
    says = f"{type(module).__name__} of {file.name}:{factory}"
    if weights is not None:
        load_weights(module, weights)
        says += f", weights {weights.name}"
    return Loaded(module.eval(), says)


def _imported(call: str, file: Path) -> ModuleType:
    """A file as a module, which may import from its own folder."""
    spec = importlib.util.spec_from_file_location(f"{file.stem} (of --model)", file)
    assert spec is not None and spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    sys.modules[spec.name] = source  # dataclasses look it up there
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(source)
    except Exception as error:
        raise CommandError(f"{call}: importing {file.name} raised {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.path.remove(folder)
    return source
