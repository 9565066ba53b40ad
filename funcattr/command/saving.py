"""Attributions in a safetensors file, with the input, the targets and their names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .classes import Target
from .example import Example
from .images import Photo
from .rows import Row

SUFFIXES = (".safetensors",)


def save_attributions(
    file: Path, model: str, example: Example, targets: Sequence[Target], attributions: Mapping[str, Tensor]
) -> None:
    """`attributions.METHOD` [K, ...] for K targets, `input` [1, ...], `target` [K]; names are in the metadata, as JSON.

    The input of a text is the embeddings of its tokens.
    """
    tensors = {f"attributions.{method}": values for method, values in attributions.items()}
    tensors |= {"input": example.explained, "target": torch.tensor([target.number for target in targets])}
    shown = example.shown
    features = [] if isinstance(shown, Photo) else list(shown.names if isinstance(shown, Row) else shown.words)
    metadata = {
        "model": model,
        "input": example.says,
        "targets": json.dumps([target.name for target in targets]),
        "features": json.dumps(features),
    }
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, file, metadata)
