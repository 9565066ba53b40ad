"""Classifiers of Hugging Face transformers, from a folder or by a name, with their own processor or tokenizer."""

from pathlib import Path
from typing import Any

from .classes import Classes
from .command_error import CommandError, one_line
from .images import Transform, numbers_of
from .loaded import Loaded
from .packages import package

_ENDS = ("ForSequenceClassification", "ForImageClassification")


def load_transformers(name: str, weights: Path | None) -> Loaded:
    """The model that a folder holds or a name stands for on the hub, whose class its configuration says."""
    call = f"--model transformers:{name}"
    if weights is not None:
        raise CommandError(f"--weights {weights}: {call} has its own weights, in its folder.")
    transformers = package("transformers", call, "transformers")
    # Its bar is over at once, and what it would warn of is checked here: weights that are missing.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # A folder is enough for itself; a name of the hub is one that the user asked for.
    local = Path(name).is_dir()
    config = _loaded(call, transformers.AutoConfig, name, local)
    kind = next(iter(getattr(config, "architectures", None) or ()), "no class")
    if not kind.endswith(_ENDS) or not hasattr(transformers, kind):
        raise CommandError(
            f"{call}: expected a classifier of texts or images, ...{' or ...'.join(_ENDS)}, got {kind}. Give another "
            "model as --model module.py:factory."
        )
    module, found = _loaded(call, getattr(transformers, kind), name, local, output_loading_info=True)
    lacking = sorted(map(str, found["missing_keys"]))
    if lacking:
        raise CommandError(
            f"{call}: expected trained weights for all of {kind}, got none for {len(lacking)} tensors: "
            f"{', '.join(lacking[:3])}. They would be random."
        )
    names = config.id2label or {}
    classes = Classes(tuple(str(names[i]) for i in sorted(names)), "the model's id2label") if names else None
    says = f"{kind} of {name}"
    if kind.endswith("ForImageClassification"):
        return Loaded(module.eval(), says, _transform(call, transformers, name, local), None, classes)
    tokenizer = _loaded(call, transformers.AutoTokenizer, name, local)
    return Loaded(module.eval(), says, None, tokenizer, classes)


def _loaded(call: str, kind: Any, name: str, local: bool, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, local_files_only=local, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        where = "the folder lacks a file, or has a broken one" if local else (
            "no such folder here, and without network access or with a wrong name there is none on the hub either. "
            "Download it where there is a network (hf download NAME --local-dir FOLDER), and give the folder"
        )  # fmt: skip
        raise CommandError(f"{call}: {where}. {one_line(error)}") from error


def _transform(call: str, transformers: Any, name: str, local: bool) -> Transform:
    processor = _loaded(call, transformers.AutoImageProcessor, name, local)
    normalizes = bool(getattr(processor, "do_normalize", False))
    mean = numbers_of(processor.image_mean) if normalizes else (0.0,)
    std = numbers_of(processor.image_std) if normalizes else (1.0,)

    def apply(photo: Any) -> Any:
        return processor(images=photo, return_tensors="pt")["pixel_values"]

    return Transform(apply, mean, std, f"by the model's own {type(processor).__name__}")
