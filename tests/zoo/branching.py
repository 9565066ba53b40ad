"""Convolutional networks whose blocks split and join: GoogLeNet, Inception, SqueezeNet, ShuffleNet."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicConv2d(nn.Module):
    """Convolution, batch norm, relu as an in-place function."""

    def __init__(self, before: int, after: int, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, bias=False, **options)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x, inplace=True)


class GoogLeNetBlock(nn.Module):
    """Four parallel branches; the last starts with a max-pool that keeps the size."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(before, 2, kernel_size=1)
        self.branch2 = nn.Sequential(BasicConv2d(before, 2, kernel_size=1), BasicConv2d(2, 3, kernel_size=3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(before, 2, kernel_size=1), BasicConv2d(2, 2, kernel_size=3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            BasicConv2d(before, 2, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(branches, 1)


class InceptionBlock(nn.Module):
    """Branches with one-sided kernels, and one average-pooled as a function."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(before, 2, kernel_size=1)
        self.branch7x7_1 = BasicConv2d(before, 2, kernel_size=1)
        self.branch7x7_2 = BasicConv2d(2, 2, kernel_size=(1, 5), padding=(0, 2))
        self.branch7x7_3 = BasicConv2d(2, 3, kernel_size=(5, 1), padding=(2, 0))
        self.branch_pool = BasicConv2d(before, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        branch1x1 = self.branch1x1(x)
        branch7x7 = self.branch7x7_1(x)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(branch7x7))
        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)
        return torch.cat([branch1x1, branch7x7, branch_pool], 1)


class InceptionReduction(nn.Module):
    """A strided convolution beside a strided max-pool."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(before, 3, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch3x3(x), F.max_pool2d(x, kernel_size=3, stride=2)], 1)


class GoogLeNet(nn.Module):
    """Stem and two blocks; the input's channels are rescaled one by one first."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 4, kernel_size=5, stride=2, padding=2)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = GoogLeNetBlock(4)
        self.inception3b = GoogLeNetBlock(9)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=0.2)
        self.fc = nn.Linear(9, classes)

    def _rescaled(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * 0.458 - 0.030
        green = torch.unsqueeze(x[:, 1], 1) * 0.448 - 0.088
        blue = torch.unsqueeze(x[:, 2], 1) * 0.450 - 0.188
        return torch.cat((red, green, blue), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(self._rescaled(x)))
        x = self.inception3b(self.inception3a(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(self.dropout(x))


class Inception(nn.Module):
    """Stem, one block, one reduction, one block."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 4, kernel_size=3, stride=2)
        self.Mixed_5b = InceptionBlock(4)
        self.Mixed_6a = InceptionReduction(7)
        self.Mixed_7a = InceptionBlock(10)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(7, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Mixed_5b(self.Conv2d_1a_3x3(x))
        x = self.Mixed_7a(self.Mixed_6a(x))
        x = F.dropout(self.avgpool(x), training=self.training)
        return self.fc(torch.flatten(x, 1))


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and by 3x3 side by side."""

    def __init__(self, before: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        narrow = self.expand1x1_activation(self.expand1x1(x))
        wide = self.expand3x3_activation(self.expand3x3(x))
        return torch.cat([narrow, wide], 1)


class SqueezeNet(nn.Module):
    """Fire blocks, and a classifier without any linear layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(6, 3, 4),
            Fire(8, 3, 4),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(8, 4, 5),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5),
            nn.Conv2d(10, classes, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` equal groups. [N, C, H, W] -> [N, C, H, W]"""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass through, half are convolved; then all are shuffled."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, after // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
                nn.BatchNorm2d(before),
                nn.Conv2d(before, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(before if stride > 1 else half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            passed, convolved = x.chunk(2, dim=1)
            out = torch.cat((passed, self.branch2(convolved)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    """A stem, one strided and one plain unit, and the mean over positions."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage2 = nn.Sequential(ShuffleUnit(6, 8, 2), ShuffleUnit(8, 8, 1))
        self.conv5 = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stage2(self.maxpool(self.conv1(x))))
        return self.fc(x.mean([2, 3]))
