"""Wrappers that spread a batch or gradients over devices are run through, those inside of a model too."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import funcattr
from funcattr import UnsupportedOperationError
from funcattr.testing import assert_equal

needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    return nn.Sequential(*parts).double().eval()


class Outer(nn.Module):
    """Only the backbone is wrapped."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.backbone = wrap(network())
        self.head = nn.Linear(4, 2).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(8.0).reshape(2, 4) - 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.backbone(x)))


def x() -> Tensor:
    return torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CALLS: dict[str, Callable[[Any], Tensor]] = {
    "gradient": lambda m: funcattr.gradient(m, x(), 1),
    "lrp": lambda m: funcattr.lrp(m, x(), 1),
    "integrated_gradients": lambda m: funcattr.integrated_gradients(m, x(), 1, steps=3),
}


def _double(module: nn.Module, inputs: Any, output: Any) -> Any:
    return 2 * output


def _same(wrap: Callable[[nn.Module], nn.Module]) -> None:
    for call in CALLS.values():
        assert_equal(call(wrap(network())), call(network()))
        whole, plain = Outer(wrap).eval(), Outer(lambda module: module).eval()
        whole.head, plain.head = (nn.Linear(4, 2).double() for _ in range(2))
        whole.head.load_state_dict(plain.head.state_dict())
        assert_equal(call(whole), call(plain))


def test_data_parallel() -> None:
    _same(nn.DataParallel)
    _same(lambda module: nn.DataParallel(nn.DataParallel(module)))


@needs_distributed
@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel() -> None:
    _same(DistributedDataParallel)
    _same(lambda module: nn.DataParallel(DistributedDataParallel(module)))


@needs_distributed
@pytest.mark.usefixtures("one_process")
def test_its_reducer_hears_nothing_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = DistributedDataParallel(network())
    before = {name: value for name, value in vars(wrapped).items() if isinstance(value, int | bool | str)}
    funcattr.gradient(Outer(lambda module: wrapped), x(), 1)
    assert before == {name: value for name, value in vars(wrapped).items() if name in before}
    assert all(p.grad is None for p in wrapped.parameters())
    with monkeypatch.context() as patch:
        patch.setattr(DistributedDataParallel, "forward", None)  # it would tell the reducer
        funcattr.gradient(Outer(lambda module: wrapped), x(), 1)
    wrapped(x()).sum().backward()  # as ever
    assert all(p.grad is not None for p in wrapped.parameters())


def test_sites_have_the_names_of_the_module() -> None:
    wrapped: Any = nn.DataParallel(network())
    assert funcattr.functionalize(wrapped).sites == funcattr.functionalize(network()).sites
    by_name = funcattr.grad_cam(wrapped, x(), 1, layer="0")
    assert_equal(by_name, funcattr.grad_cam(network(), x(), 1, layer="0"))
    assert_equal(funcattr.grad_cam(wrapped, x(), 1, layer=wrapped.module[0]), by_name)
    sites = funcattr.functionalize(Outer(nn.DataParallel)).sites
    assert sites[:3] == ("backbone", "backbone.module", "backbone.module.0")


@needs_distributed
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_process")
def test_names_what_a_wrapper_does_beside() -> None:
    hooked = nn.DataParallel(network())
    hooked.register_forward_hook(_double)
    with pytest.raises(UnsupportedOperationError, match="DataParallel has forward hooks of its own"):
        funcattr.gradient(hooked, x(), 1)
    mixed: Any = DistributedDataParallel(network())
    mixed.mixed_precision = object()  # what the option leaves there, on a CPU too
    with pytest.raises(UnsupportedOperationError, match="DistributedDataParallel with mixed_precision="):
        funcattr.gradient(mixed, x(), 1)
    with pytest.raises(UnsupportedOperationError, match="'backbone' is a DistributedDataParallel with mixed"):
        funcattr.gradient(Outer(lambda module: mixed), x(), 1)


def test_what_a_class_of_ones_own_does_is_not_left_out() -> None:
    class Doubling(nn.DataParallel):
        def forward(self, *inputs: Any, **kwargs: Any) -> Any:
            return 2 * super().forward(*inputs, **kwargs)

    for wrap in (Doubling, lambda module: nn.DataParallel(Doubling(module))):
        assert_equal(funcattr.gradient(wrap(network()), x(), 1), 2 * funcattr.gradient(network(), x(), 1))
    patched: Any = nn.DataParallel(network())
    patched.forward = lambda value: 3 * patched.module(value)
    assert_equal(funcattr.gradient(patched, x(), 1), 3 * funcattr.gradient(network(), x(), 1))


def test_a_hook_on_an_inner_wrapper_runs() -> None:
    """There it is a part of the model, as any module's."""

    def doubled(module: nn.Module) -> nn.Module:
        wrapped = nn.DataParallel(module)
        wrapped.register_forward_hook(_double)
        return wrapped

    model = Outer(doubled).eval()
    inputs = x().requires_grad_()
    expected = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)[0]
    assert_equal(funcattr.gradient(model, x(), 1), expected)
