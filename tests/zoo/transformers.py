"""Vision transformers in torchvision's style: ViT and Swin."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderBlock(nn.Module):
    """Self-attention, then a perceptron, each after a layer norm and with a shortcut."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(mlp_dim, dim), nn.Dropout(0.1)
        )

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x)
        x = x + input
        y = self.mlp(self.ln_2(x))
        return x + y


class Encoder(nn.Module):
    """Position embedding and a stack of blocks."""

    def __init__(self, length: int, depth: int, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(1, length, dim))
        self.dropout = nn.Dropout(0.1)
        blocks = {f"encoder_layer_{i}": EncoderBlock(dim, heads, mlp_dim) for i in range(depth)}
        self.layers = nn.Sequential(OrderedDict[str, nn.Module](blocks))
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        input = input + self.pos_embedding
        return self.ln(self.layers(self.dropout(input)))


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token in front, and a linear head on it."""

    def __init__(
        self,
        *,
        size: int = 16,
        patch: int = 8,
        depth: int = 2,
        dim: int = 8,
        heads: int = 2,
        mlp_dim: int = 16,
        classes: int = 4,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.dim = dim
        self.conv_proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = Encoder((size // patch) ** 2 + 1, depth, dim, heads, mlp_dim)
        self.heads = nn.Sequential(OrderedDict[str, nn.Module](head=nn.Linear(dim, classes)))

    def _tokens(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.conv_proj(x)
        x = x.reshape(n, self.dim, (h // self.patch) * (w // self.patch))
        return x.permute(0, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self._tokens(x)
        batch_class_token = self.class_token.expand(x.shape[0], -1, -1)
        x = torch.cat([batch_class_token, x], dim=1)
        x = self.encoder(x)
        x = x[:, 0]
        return self.heads(x)


def _relative_index(window: int) -> Tensor:
    """Return the row of the bias table for each pair of positions in a window. [window**4]"""
    axis = torch.arange(window)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offsets = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + window - 1
    return (offsets[..., 0] * (2 * window - 1) + offsets[..., 1]).flatten()


class ShiftedWindowAttention(nn.Module):
    """Attention within windows, of a map rolled by `shift` so that windows of successive blocks overlap."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(window))
        self.relative_position_index: Tensor

    def _bias(self) -> Tensor:
        positions = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.view(positions, positions, -1)
        return bias.permute(2, 0, 1).contiguous().unsqueeze(0)

    def _mask(self, x: Tensor, height: int, width: int) -> Tensor:
        """Forbid pairs that only the roll made neighbours. -> [windows, positions, positions]"""
        window, shift = self.window, self.shift
        mask = x.new_zeros((height, width))
        spans = ((0, -window), (-window, -shift), (-shift, None))
        count = 0
        for top, bottom in spans:
            for left, right in spans:
                mask[top:bottom, left:right] = count
                count += 1
        mask = mask.view(height // window, window, width // window, window)
        mask = mask.permute(0, 2, 1, 3).reshape(-1, window**2)
        mask = mask.unsqueeze(1) - mask.unsqueeze(2)
        return mask.masked_fill(mask != 0, (-100.0)).masked_fill(mask == 0, 0.0)

    def _attend(self, x: Tensor, height: int, width: int) -> Tensor:
        """Attend within each window. [N * windows, positions, C] -> same"""
        total, positions, channels = x.shape
        qkv = F.linear(x, self.qkv.weight, self.qkv.bias)
        qkv = qkv.reshape(total, positions, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        q = q * (channels // self.heads) ** -0.5
        attn = q.matmul(k.transpose(-2, -1))
        attn = attn + self._bias()
        if self.shift > 0:
            mask = self._mask(x, height, width)
            windows = mask.size(0)
            attn = attn.view(total // windows, windows, self.heads, positions, positions)
            attn = attn + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.heads, positions, positions)
        attn = F.dropout(F.softmax(attn, dim=-1), p=0.0, training=self.training)
        return attn.matmul(v).transpose(1, 2).reshape(total, positions, channels)

    def forward(self, input: Tensor) -> Tensor:
        batch, height, width, channels = input.shape
        window = self.window
        x = F.pad(input, (0, 0, 0, -width % window, 0, -height % window))
        _, high, wide, _ = x.shape
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = x.view(batch, high // window, window, wide // window, window, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, channels)
        x = F.linear(self._attend(x, high, wide), self.proj.weight, self.proj.bias)
        x = x.view(batch, high // window, wide // window, window, window, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, high, wide, channels)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width, :].contiguous()


class SwinBlock(nn.Module):
    """Windowed attention and a perceptron, with shortcuts."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShiftedWindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class PatchMerging(nn.Module):
    """Halve the map: four neighbours become channels, then half as many. [N, H, W, C] -> [N, H/2, W/2, 2C]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width, _ = x.shape[-3:]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        corners = x[..., 0::2, 0::2, :], x[..., 1::2, 0::2, :], x[..., 0::2, 1::2, :], x[..., 1::2, 1::2, :]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class ChannelsLast(nn.Module):
    """[N, C, H, W] -> [N, H, W, C]"""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class SwinTransformer(nn.Module):
    """Two stages; the second map does not divide into windows and is padded."""

    def __init__(self, dim: int = 8, heads: int = 2, window: int = 2, classes: int = 4) -> None:
        super().__init__()
        shift = math.ceil(window / 2)
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, dim, kernel_size=4, stride=4), ChannelsLast(), nn.LayerNorm(dim)),
            nn.Sequential(SwinBlock(dim, heads, window, 0), SwinBlock(dim, heads, window, shift)),
            PatchMerging(dim),
            nn.Sequential(SwinBlock(2 * dim, heads, window, 0), SwinBlock(2 * dim, heads, window, shift)),
        )
        self.norm = nn.LayerNorm(2 * dim)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.head = nn.Linear(2 * dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.features(x))
        x = self.avgpool(x.permute(0, 3, 1, 2))
        return self.head(self.flatten(x))
