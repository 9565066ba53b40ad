"""Models of the true shapes, with random weights, for benchmarks: inputs are [N, 3, 224, 224].

Parameter names and shapes are torchvision's, so its checkpoints load into them.
"""

import torch
from torch import nn

from funcattr.testing.seeding import settle

from .classic import VGG, Bottleneck, ResNet
from .transformers import VisionTransformer

_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16(dtype: torch.dtype = torch.float32) -> nn.Module:
    """VGG-16 without batch norm, relu in place; 138 million parameters."""
    return settle(lambda: VGG(_VGG16, pooled=7, hidden=4096, classes=1000), dtype=dtype)


def resnet50(dtype: torch.dtype = torch.float32) -> nn.Module:
    """ResNet-50; 25.6 million parameters."""
    return settle(lambda: ResNet(Bottleneck, (3, 4, 6, 3), width=64, classes=1000), dtype=dtype)


def vit_b_16(dtype: torch.dtype = torch.float32, depth: int = 12) -> nn.Module:
    """ViT-B/16; 86.6 million parameters at its depth of 12."""

    def build() -> nn.Module:
        return VisionTransformer(size=224, patch=16, depth=depth, dim=768, heads=12, mlp_dim=3072, classes=1000)

    return settle(build, dtype=dtype)
