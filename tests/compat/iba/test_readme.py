"""The example of the IBA package's README, with its import lines changed and nothing else."""

import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from funcattr.compat.iba import IBA
from funcattr.testing.seeding import settle

Image = pytest.importorskip("PIL.Image")
pyplot = pytest.importorskip("matplotlib.pyplot")
pytest.importorskip("skimage", reason="photographs come with the extra 'demo'")

README = """\
from IBA.pytorch import IBA, tensor_to_np_img, get_imagenet_folder, imagenet_transform
from IBA.utils import plot_saliency_map, to_unit_interval, load_monkeys

from torch.utils.data import DataLoader
from torchvision.models import vgg16
import torch

# imagenet_dir = /path/to/imagenet/validation

# Load model
dev = 'cuda:0' if torch.cuda.is_available() else 'cpu'
model = vgg16(pretrained=True)
model.to(dev)

# Add a Per-Sample Bottleneck at layer conv4_1
iba = IBA(model.features[17])

# Estimate the mean and variance of the feature map at this layer.
val_set = get_imagenet_folder(imagenet_dir)
val_loader = DataLoader(val_set, batch_size=64, shuffle=True, num_workers=4)
iba.estimate(model, val_loader, n_samples=5000, progbar=True)

# Load Image
monkeys, target = load_monkeys(pil=True)
monkeys_transform = imagenet_transform()(monkeys)

# Closure that returns the loss for one batch
model_loss_closure = lambda x: -torch.log_softmax(model(x), dim=1)[:, target].mean()

# Explain class target for the given image
saliency_map = iba.analyze(monkeys_transform.unsqueeze(0).to(dev), model_loss_closure, beta=10)

# display result
model_loss_closure = lambda x: -torch.log_softmax(model(x), 1)[:, target].mean()
heatmap = iba.analyze(monkeys_transform[None].to(dev), model_loss_closure )
plot_saliency_map(heatmap, tensor_to_np_img(monkeys_transform))
"""


class VGG(nn.Module):
    """VGG-16 with a sixteenth of its channels."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = list[nn.Module](), 3
        for width in (4, 4, 0, 8, 8, 0, 16, 16, 16, 0, 32, 32, 32, 0, 32, 32, 32, 0):
            convolution = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)] if width else []
            layers += convolution or [nn.MaxPool2d(2)]
            channels = width or channels
        self.features = nn.Sequential(*layers)
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(7), nn.Linear(32 * 49, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def photographs() -> dict[str, np.ndarray]:
    from skimage import data

    return {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}


@pytest.fixture
def imagenet_dir(tmp_path: Path) -> Path:
    for name, photo in photographs().items():
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(photo[:, :: 1 - 2 * index]).save(tmp_path / name / f"{index}.png")
    return tmp_path


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VGG-16 of torchvision, which PyPI's builds for other versions of torch do not load, small and random."""
    models = types.ModuleType("torchvision.models")
    vars(models)["vgg16"] = lambda pretrained: settle(VGG, dtype=torch.float32) if pretrained else None
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_the_example_runs(imagenet_dir: Path, torchvision: None) -> None:
    pyplot.switch_backend("agg")
    source = README.replace("from IBA.pytorch import", "from funcattr.compat.iba import")
    source = source.replace("from IBA.utils import", "from funcattr.compat.iba import")
    changed = sum(a != b for a, b in zip(README.splitlines(), source.splitlines(), strict=True))
    assert changed == 2

    namespace = {"imagenet_dir": str(imagenet_dir)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(source, "README", "exec"), namespace)
    told = {str(w.message).partition(":")[0] for w in caught if issubclass(w.category, UserWarning)}
    assert {"load_monkeys", "IBA.analyze"} <= told  # eight images are few

    bits, heatmap, model = (namespace[name] for name in ("saliency_map", "heatmap", "model"))
    assert isinstance(bits, np.ndarray) and isinstance(heatmap, np.ndarray) and isinstance(model, nn.Module)
    assert bits.shape == heatmap.shape == (224, 224)
    assert np.isfinite(bits).all() and bits.sum() > 0 and not np.allclose(bits, heatmap)  # another noise
    drawn = pyplot.gcf().axes[0].get_images()
    assert [image.get_array().shape for image in drawn] == [(224, 224, 3), (224, 224, 4)]
    pyplot.close("all")
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_it_finds_the_cat_and_the_espresso() -> None:
    """The trained network of the demo: two photographs side by side, in the half of which the class is."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the network comes with the extra 'demo'")
    from funcattr.demo.photos import as_input, load_questions
    from funcattr.metrics.datasets.photos import load_network, pixels_of

    network, questions = load_network(), load_questions()
    photos = [as_input(pixels_of(torch.from_numpy(photo.copy()))) for photo in photographs().values()]
    iba = IBA(network._blocks[10], batch_size=4)  # type: ignore[index]
    iba.estimate(network, [(torch.cat([left, right], 3), None) for left in photos for right in photos])
    for index in range(2):  # the cat, the espresso
        image, target, box = (part[index] for part in questions[:3])
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="16 samples are few"):
            bits = iba.analyze(image[None], lambda x, k=int(target): -torch.log_softmax(network(x), 1)[:, k].mean())
        inside = bits[:, box[1] : box[3]].sum() / bits.sum()
        assert inside > 0.6, (index, inside)
