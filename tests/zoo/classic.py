"""Convolutional networks that are one path with shortcuts: plain, VGG, ResNet, DenseNet.

Module names follow torchvision, so that site names in tests read as a user would write them.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CNN(nn.Module):
    """Two convolutions and two linear layers, with three spellings of relu."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8 * 3 * 3, 12)
        self.fc2 = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.conv2(x).relu()
        x = F.max_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        return self.fc2(torch.relu(self.fc1(x)))


class VGG(nn.Module):
    """Stacked 3x3 convolutions; `plan` holds widths, and "M" where the map is halved."""

    def __init__(
        self,
        plan: Sequence[int | str],
        *,
        norm: bool = False,
        pooled: int = 2,
        hidden: int = 16,
        classes: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for step in plan:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(nn.Conv2d(width, step, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(step)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            width = step
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = nn.Sequential(
            nn.Linear(width * pooled * pooled, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; one relu module is called twice."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; one relu module is called three times."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A stem and four stages of residual blocks."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        width: int = 4,
        classes: int = 4,
    ) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(block, width, depths[0], stride=1)
        self.layer2 = self._stage(block, width * 2, depths[1], stride=2)
        self.layer3 = self._stage(block, width * 4, depths[2], stride=2)
        self.layer4 = self._stage(block, width * 8, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width * 8 * block.expansion, classes)

    def _stage(
        self, block: type[BasicBlock] | type[Bottleneck], width: int, depth: int, *, stride: int
    ) -> nn.Sequential:
        after = width * block.expansion
        downsample = None
        if stride != 1 or self.width != after:
            downsample = nn.Sequential(
                nn.Conv2d(self.width, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )
        first = block(self.width, width, stride, downsample)
        self.width = after
        return nn.Sequential(first, *(block(after, width, 1, None) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class DenseLayer(nn.Module):
    """Norm before relu before convolution, twice, on the concatenation of all earlier maps."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 2 * growth, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(maps, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Dense layers which pass on a growing list of maps."""

    def __init__(self, before: int, growth: int, depth: int) -> None:
        super().__init__()
        for index in range(depth):
            self.add_module(f"denselayer{index + 1}", DenseLayer(before + index * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.values():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class DenseNet(nn.Module):
    """Two dense blocks with a transition between, relu as a function at the end."""

    def __init__(self, growth: int = 3, classes: int = 4) -> None:
        super().__init__()
        stem, wide = 4, 4 + 2 * growth
        transition = OrderedDict[str, nn.Module](
            norm=nn.BatchNorm2d(wide),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(wide, stem, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv0=nn.Conv2d(3, stem, kernel_size=3, stride=2, padding=1, bias=False),
                norm0=nn.BatchNorm2d(stem),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
                denseblock1=DenseBlock(stem, growth, 2),
                transition1=nn.Sequential(transition),
                denseblock2=DenseBlock(stem, growth, 2),
                norm5=nn.BatchNorm2d(wide),
            )
        )
        self.classifier = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))
