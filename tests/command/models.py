"""Models, files and a runner for the tests of the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from funcattr.__main__ import main

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "is", "not", "bad", "good", "a", "dog", "!"]

FACTORIES = """
from collections import OrderedDict

import torch
from torch import nn


def small(channels=3):
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
    return nn.Sequential(OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), head=nn.Linear(24, 3)))


def grey():
    return small(1)


def table():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def risk():
    return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))


def shares():
    return nn.Sequential(table(), nn.Softmax(1))


def dense():
    return nn.Conv2d(3, 2, 3)


def broken():
    raise KeyError("no such layer")


def number():
    return 3


ready = small()
"""


class Result:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def explain(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Result:
    """Run `funcattr explain` with these arguments, without progress bars."""
    status, _ = 0, capsys.readouterr()  # what was printed before is not of the command
    try:
        main(["explain", *map(str, arguments), "--no-progress"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    printed = capsys.readouterr()
    return Result(status, printed.out, printed.err)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a command that cannot be done."""
    result = explain(capsys, *arguments)
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert line.startswith("funcattr explain: ")
    return line.removeprefix("funcattr explain: ")


def write_photo(file: Path, size: tuple[int, int] = (40, 30)) -> Path:
    """A photo that is red at the left and blue at the right."""
    width, height = size
    image = Image.new("RGB", size, (200, 40, 40))
    image.paste((40, 40, 200), (width // 2, 0, width, height))
    image.save(file)
    return file


def write_factories(folder: Path) -> Path:
    """A Python file with models."""
    file = folder / "nets.py"
    file.write_text(FACTORIES)
    return file


def write_table(file: Path) -> Path:
    """Three rows; the label is not for the model."""
    file.write_text("age,mass,height,label\n41,80.5,1.8,ill\n20,60,1.7,well\n30,?,1.6,well\n")
    return file


def save_text_model(folder: Path, names: dict[int, str], **changes: Any) -> Path:
    """A tiny BERT that classifies texts or pairs of them, with its tokenizer."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, id2label=names, label2id={name: i for i, name in names.items()}, **changes,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def save_image_model(folder: Path) -> Path:
    """A tiny vision transformer with its processor."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog, hound"}, label2id={"cat": 0, "dog, hound": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


def small(net: str) -> torch.nn.Module:
    """The module that `FILE:small` stands for."""
    space: dict[str, Any] = {}
    exec(Path(net.rpartition(":")[0]).read_text(), space)
    return space["small"]().eval()


class StandIn:
    """What the command asks of torchvision and timm, with a small network."""

    def __init__(self, net: str, names: Sequence[str] = ("small18", "small50")) -> None:
        self.net, self.names = net, names

    def preset(self, photo: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(photo.resize((32, 32)))).movedim(-1, 0) / 255
        return (pixels - 0.5) / 0.25

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        preset: Any = type("Preset", (), {"__call__": lambda _, photo: self.preset(photo)})()
        preset.mean, preset.std, preset.resize_size, preset.crop_size = [0.5] * 3, [0.25] * 3, [40], [32]
        default = SimpleNamespace(transforms=lambda: preset, meta={"categories": ["cat", "dog", "bird"]})
        models: Any = ModuleType("torchvision.models")
        models.list_models = lambda: self.names
        models.get_model = lambda name, weights: small(self.net)
        models.get_model_weights = lambda name: SimpleNamespace(DEFAULT=default)
        timm: Any = ModuleType("timm")
        timm.list_models = models.list_models
        timm.create_model = self.timm_model
        data: Any = ModuleType("timm.data")
        config = {
            "input_size": (3, 32, 32),
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": (0.5,),
            "std": (0.25,),
        }
        data.resolve_model_data_config = lambda module: config
        data.create_transform = lambda **options: self.preset
        found = {
            "torchvision": ModuleType("torchvision"),
            "torchvision.models": models,
            "timm": timm,
            "timm.data": data,
        }
        for name, module in found.items():
            monkeypatch.setitem(sys.modules, name, module)

    def timm_model(self, name: str, pretrained: bool) -> torch.nn.Module:
        module: Any = small(self.net)
        module.pretrained_cfg, module.num_classes = {"tag": "a1_in1k"}, 3
        return module
