"""Models by their names on the command line, with what is known of how they take inputs."""

from collections.abc import Callable
from pathlib import Path

from ..metrics.datasets.photos import MEAN, STD, load_network
from .classes import imagenet
from .command_error import CommandError, refusing
from .hubs import load_timm, load_torchvision
from .images import plain_transform
from .loaded import Loaded
from .module_files import load_factory
from .transformers_models import load_transformers

DEMO = "demo"
SPELLINGS = "demo, torchvision:NAME, timm:NAME, transformers:FOLDER_OR_NAME or module.py:factory"


def load_model(name: str, weights: Path | None) -> Loaded:
    """The model that a name stands for, with the weights of a file.

    Raises:
        CommandError: If there is no such model, a package is missing, or the weights are missing or do not fit.
    """
    if name == DEMO:
        return _demo(weights)
    kind, colon, rest = name.partition(":")
    loaders: dict[str, Callable[[str, Path | None], Loaded]] = {
        "torchvision": load_torchvision,
        "timm": load_timm,
        "transformers": load_transformers,
    }
    if colon and rest and kind in loaders:
        return loaders[kind](rest, weights)
    file, colon, factory = name.rpartition(":")
    if colon and file.endswith(".py"):
        return load_factory(Path(file), factory, weights)
    raise CommandError(f"--model {name}: expected {SPELLINGS}.")


def _demo(weights: Path | None) -> Loaded:
    if weights is not None:
        raise CommandError(
            f"--weights {weights}: the demo's network has its own weights. Say whose these are, --model: {SPELLINGS}."
        )
    with refusing("--model demo, the default: "):
        module = load_network()
    transform = plain_transform([224], [MEAN], [STD])
    return Loaded(module, "EfficientNet-Lite0, trained on ImageNet (the demo's network)", transform, None, imagenet())
