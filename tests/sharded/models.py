"""Small models, plain ones and sharded ones of the same numbers."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class Pictures(nn.Module):
    """A residual network. [N, 2, 6, 6] -> [N, 4]"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.blocks = nn.Sequential(Residual(5), Residual(5))
        self.head = nn.ModuleDict({"hidden": nn.Linear(80, 6), "out": nn.Linear(6, 4)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.head["out"](F.relu(self.head["hidden"](x.flatten(1))))


class Attention(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) / self.head**0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, head: int, inner: int = 12) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, head)
        self.gate, self.up, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        h = self.between(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Words(nn.Module):
    """As a Llama, with tied embeddings. [N, T, 8] -> [N, 10]"""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.layers = nn.ModuleList(Layer(8, 2) for _ in range(2))
        self.norm = nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x)[:, -1], self.embedding.weight)


class Checkpointed(Words):
    """Its layers run once more in the reverse pass."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return F.linear(self.norm(x)[:, -1], self.embedding.weight)


class Llama(nn.Module):
    """A random Llama of transformers, of embeddings. [N, T, 16] -> [N, 330]"""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes: Any = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        more: Any = {"vocab_size": 330, "num_key_value_heads": 2, "attn_implementation": "eager"}
        config = LlamaConfig(**sizes, **more)
        self.llama = LlamaForCausalLM(config)
        self.layers = self.llama.model.layers

    def forward(self, x: Tensor) -> Tensor:
        return self.llama(inputs_embeds=x, use_cache=False).logits[:, -1]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model whose numbers are of every sign, the statistics of its batch norms too."""
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@cache
def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def fsdp(model: Any, policy: MixedPrecisionPolicy | None = None, output: torch.dtype | None = None) -> nn.Module:
    """The model by `fully_shard`: each block, and the rest."""
    policy = policy or MixedPrecisionPolicy()
    for block in model.blocks if isinstance(model, Pictures) else model.layers:
        fully_shard(block, mesh=mesh(), mp_policy=policy)
    root = model.llama if isinstance(model, Llama) else model
    fully_shard(root, mesh=mesh(), mp_policy=replace(policy, output_dtype=output))
    return model


def half(model: Any) -> nn.Module:
    """By `fully_shard` with a policy of mixed precision."""
    return fsdp(model, MixedPrecisionPolicy(param_dtype=torch.bfloat16), torch.float32)


def parallel(model: Any) -> nn.Module:
    """The model by `parallelize_module`."""
    if isinstance(model, Pictures):
        plan: Any = {"head.hidden": ColwiseParallel(), "head.out": RowwiseParallel()}
        return parallelize_module(model, mesh(), plan)
    columns, rows = ("attention.q", "attention.k", "attention.v", "gate", "up"), ("attention.o", "down")
    if isinstance(model, Llama):
        columns = (*(f"self_attn.{part}_proj" for part in "qkv"), "mlp.gate_proj", "mlp.up_proj")
        rows = ("self_attn.o_proj", "mlp.down_proj")
    for layer in model.layers:
        plan = {**{name: ColwiseParallel() for name in columns}, **{name: RowwiseParallel() for name in rows}}
        parallelize_module(layer, mesh(), plan)
    return model
