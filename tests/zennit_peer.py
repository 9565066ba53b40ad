"""zennit, for comparison: its parts, its canonizers for the nets here, and relevance by its composites."""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .zoo.classic import BasicBlock, Bottleneck

WHY_NOT = "zennit is not installed (it is in the extra 'bench')"


def is_installed() -> bool:
    """Whether zennit can be used."""
    return find_spec("zennit") is not None


def part(name: str) -> Any:
    """A module of zennit, by its name.

    The package itself imports torchvision, which not every machine has; the parts used here do without.
    """
    if "zennit" not in sys.modules:
        spec = find_spec("zennit")
        assert spec is not None
        sys.modules["zennit"] = module_from_spec(spec)
    return import_module(f"zennit.{name}")


def canonizers(*, exact: bool = False) -> list[Any]:
    """zennit's for VGG and ResNet; what its `torchvision.ResNetCanonizer` is, for the classes here.

    `exact`: a merged batch norm is left without its eps, so that it is the identity.
    """
    merge = part("canonizers").SequentialMergeBatchNorm
    return [_without_eps(merge)() if exact else merge(), part("canonizers").AttributeCanonizer(_with_explicit_sum)]


def relevance(model: nn.Module, x: Tensor, target: int, composite: Any) -> Tensor:
    """Relevance of the input by one of zennit's composites, as its documentation has it. Shaped as x."""
    leaf = x.clone().requires_grad_()
    with composite.context(model) as modified:
        output = modified(leaf)
        seed = torch.zeros_like(output)
        seed[:, target] = 1
        return torch.autograd.grad(output, leaf, seed)[0]


def _without_eps(merge: Any) -> Any:
    class Exact(merge):
        def register(self, linears: Any, batch_norm: Any) -> None:
            super().register(linears, batch_norm)
            self.eps, batch_norm.eps = batch_norm.eps, 0.0

        def remove(self) -> None:
            super().remove()
            self.batch_norm.eps = self.eps

    return Exact


def _with_explicit_sum(name: str, module: nn.Module) -> dict[str, Any] | None:
    if not isinstance(module, BasicBlock | Bottleneck):
        return None
    return {"forward": MethodType(_forward, module), "canonizer_sum": part("layer").Sum()}


def _forward(self: Any, x: Tensor) -> Tensor:
    identity = x if self.downsample is None else self.downsample(x)
    out = self.relu(self.bn1(self.conv1(x)))
    out = self.bn2(self.conv2(out))
    if hasattr(self, "conv3"):
        out = self.bn3(self.conv3(self.relu(out)))
    return self.relu(self.canonizer_sum(torch.stack([identity, out], dim=-1)))
