"""Image classifiers of torchvision and timm, with weights from a file. Nothing is downloaded."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .classes import Classes, imagenet
from .command_error import CommandError, refusing
from .images import Transform, numbers_of
from .loaded import Loaded
from .packages import package
from .weights import load_weights


def load_torchvision(name: str, weights: Path | None) -> Loaded:
    """Torchvision's model, and the transform and the classes of its default weights."""
    call = f"--model torchvision:{name}"
    models = package("torchvision.models", call, "torchvision")
    _require(call, name, models.list_models())
    if weights is None:
        raise _no_weights(
            call, f"import torch, torchvision; torch.save(torchvision.models.get_model('{name}', weights='DEFAULT')"
            f".state_dict(), '{name}.pth')", f"{name}.pth"
        )  # fmt: skip
    with refusing(f"{call}: "):
        module = models.get_model(name, weights=None)
        default = models.get_model_weights(name).DEFAULT
        preset = default.transforms()
    load_weights(module, weights)
    transform = None
    if hasattr(preset, "mean") and hasattr(preset, "std"):
        says = (
            f"as torchvision does for {default}: resize {_plain(preset.resize_size)}, crop {_plain(preset.crop_size)}"
        )
        transform = Transform(lambda photo: preset(photo)[None], numbers_of(preset.mean), numbers_of(preset.std), says)
    names = default.meta.get("categories")
    classes = Classes(tuple(names), f"torchvision, for {default}") if names else None
    return Loaded(module.eval(), f"torchvision's {name}, weights {weights.name}", transform, None, classes)


def load_timm(name: str, weights: Path | None) -> Loaded:
    """Timm's model, and the transform of its configuration."""
    call = f"--model timm:{name}"
    timm = package("timm", call, "timm")
    data = package("timm.data", call, "timm")
    _require(call, name.partition(".")[0], timm.list_models())
    if weights is None:
        raise _no_weights(
            call, f"import torch, timm; torch.save(timm.create_model('{name}', pretrained=True).state_dict(), "
            f"'{name}.pth')", f"{name}.pth"
        )  # fmt: skip
    with refusing(f"{call}: "):
        module = timm.create_model(name, pretrained=False).eval()
        config = data.resolve_model_data_config(module)
        preset = data.create_transform(**config, is_training=False)
    load_weights(module, weights)
    size = " x ".join(map(str, config["input_size"][1:]))
    says = f"as timm does for {name}: {size}, {config['interpolation']}, crop {config['crop_pct']}"
    transform = Transform(
        lambda photo: preset(photo)[None], numbers_of(config["mean"]), numbers_of(config["std"]), says
    )
    # The tag of the weights that timm has for this model says what their classes are.
    tag = str(module.pretrained_cfg.get("tag") or "")
    classes = imagenet() if tag.endswith("in1k") and module.num_classes == 1000 else None
    return Loaded(module, f"timm's {name}, weights {weights.name}", transform, None, classes)


def _require(call: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        closest = difflib.get_close_matches(name, known, n=3) or known[:3]
        raise CommandError(f"{call}: no such model. Closest: {', '.join(map(repr, closest))}.")


def _no_weights(call: str, program: str, file: str) -> CommandError:
    return CommandError(
        f"{call}: expected its weights, --weights FILE, for nothing is downloaded here. Once, with a network: "
        f'python -c "{program}", and then --weights {file}. Without weights at hand, the demo\'s network needs none: '
        "--model demo."
    )


def _plain(size: Any) -> Any:
    return size[0] if isinstance(size, list | tuple) and len(size) == 1 else size
