"""Passes over memory: `python -m tests.benchmarks.passes` counts the bytes that each method reads and writes.

Time varies from run to run, these counts do not. The unit is one pass over the results of the model's linear maps: a
plain copy of all of them would be two, one that reads and one that writes. An operation reads each tensor that it is
given once, and writes each that it makes or changes. `--operations` lists where the passes are.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

import funcattr
from funcattr import rules

from ..meters import NO_KERNEL, Hidden, aten
from ..zoo.large import resnet50, vgg16
from .measure import RULEBOOKS

CLASS = 3
MODELS: dict[str, Callable[[], Any]] = {"resnet50": resnet50, "vgg16": vgg16}
MAPS = (aten.convolution, aten.addmm, aten.mm, aten.convolution_backward)
_ONLY_WRITES = {aten.fill_, aten.zero_, aten.copy_, aten.new_full, aten.new_ones, aten.new_zeros}
BOOKS = {**RULEBOOKS, "epsilon_alpha2_beta1": rules.epsilon_alpha2_beta1()}


class Traffic(Hidden):
    """Counts the bytes that operations read and write.

    Attributes:
        bytes: By operation.
        calls: How often each ran.
        results: Bytes of the results of linear maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.calls, self.results = Counter[str](), Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet in NO_KERNEL or packet is aten.detach:
            return out
        name = packet.__name__
        self.calls[name] += 1
        self.bytes[name] += sum(map(_bytes, _read(packet, args, kwargs))) + sum(map(_bytes, _tensors(out)))
        if packet in MAPS[:3]:
            self.results += sum(map(_bytes, _tensors(out)))
        return out

    @property
    def in_maps(self) -> int:
        """Bytes that linear maps and their adjoints read and write."""
        return sum(self.bytes[packet.__name__] for packet in MAPS)

    @property
    def maps(self) -> int:
        """How often a linear map or its adjoint ran."""
        return sum(self.calls[packet.__name__] for packet in MAPS)


def _read(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    given = list(args)
    if packet is aten.convolution_backward and not args[-1][1]:
        del given[1]  # the input, of which only the shape is read where no gradient of the weight is asked for
    if packet in _ONLY_WRITES:
        del given[0]
    return _tensors((given, {name: value for name, value in kwargs.items() if name != "out"}))


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]


def traffic(run: Callable[[], Any]) -> Traffic:
    """What a call reads and writes, once it has run before."""
    run()
    with Traffic() as counted:
        run()
    return counted


def plain(model: Any, x: Tensor) -> Tensor:
    """The unit of the benchmark page: the gradient by autograd."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]


def methods(model: Any, x: Tensor) -> dict[str, Callable[[], Any]]:
    """The unit, and each method by its name."""
    found: dict[str, Callable[[], Any]] = {"plain": lambda: plain(model, x)}
    for end, fm in (("", funcattr.functionalize(model)), (", folded", funcattr.functionalize(model, fold=True))):
        if end and not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
            continue
        found[f"gradient{end}"] = lambda fm=fm: funcattr.gradient(fm, x, CLASS)
        found[f"guided_backprop{end}"] = lambda fm=fm: funcattr.guided_backprop(fm, x, CLASS)
        for name, book in BOOKS.items():
            found[f"lrp {name}{end}"] = lambda fm=fm, book=book: funcattr.lrp(fm, x, CLASS, rules=book, start="one")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.passes", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--methods", nargs="+", help="words; methods whose name has one of them (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--operations", action="store_true", help="where the passes are, operation by operation")
    options = parser.parse_args(argv)
    model = MODELS[options.model]().eval()
    x = torch.randn(options.batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unit = traffic(lambda: model(x)).results
    print(f"{options.model}, batch {options.batch} at {options.size}: one pass is {unit / 2**20:.1f} MiB")
    print(f"{'':<32} {'maps':>5} {'passes in maps':>15} {'elsewhere':>10}")
    for name, run in methods(model, x).items():
        if options.methods and name != "plain" and not any(word in name for word in options.methods):
            continue
        counted = traffic(run)
        elsewhere = sum(counted.bytes.values()) - counted.in_maps
        print(f"{name:<32} {counted.maps:>5} {counted.in_maps / unit:>15.2f} {elsewhere / unit:>10.2f}", flush=True)
        if options.operations:
            for operation, moved in counted.bytes.most_common():
                if moved > unit / 100:
                    print(f"    {operation:<28} {counted.calls[operation]:>5} {moved / unit:>15.2f}")


if __name__ == "__main__":
    main()
