"""Models that accelerate has put hooks on: devices, offload to memory and disk, mixed precision, and unwrapped ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import UnsupportedOperationError
from funcattr.testing import assert_equal

accelerate = pytest.importorskip("accelerate")
hooks = pytest.importorskip("accelerate.hooks")


class Tied(nn.Module):
    """Embeddings that are used twice, the second time not by their module. [N, T, 6] -> [N, 7]"""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.LayerNorm(6)) for _ in range(2))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.embedding(x)
        for layer in self.layers:
            x = x + layer(x) * self.scale
        return self.head(x.mean(1))


def model() -> nn.Module:
    torch.manual_seed(0)
    return Tied().eval()


def x() -> Tensor:
    return torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))


def _offloaded(folder: Path) -> nn.Module:
    return accelerate.cpu_offload(model(), execution_device=torch.device("cpu"))


def _offloaded_with_buffers(folder: Path) -> nn.Module:
    return accelerate.cpu_offload(model(), execution_device=torch.device("cpu"), offload_buffers=True)


def _on_disk(folder: Path) -> nn.Module:
    return accelerate.disk_offload(model(), str(folder), execution_device=torch.device("cpu"))


def _dispatched(folder: Path) -> nn.Module:
    return accelerate.dispatch_model(model(), {"": "cpu"}, force_hooks=True)


def _without_hooks(folder: Path) -> nn.Module:
    found = _offloaded(folder)
    hooks.remove_hook_from_module(found, recurse=True)
    return found


def _several_hooks(folder: Path) -> nn.Module:
    found = _offloaded(folder)
    hooks.add_hook_to_module(found.layers[0][0], hooks.ModelHook(), append=True)  # pyright: ignore
    return found


MADE: dict[str, Callable[[Path], nn.Module]] = {
    "cpu_offload": _offloaded,
    "buffers too": _offloaded_with_buffers,
    "disk_offload": _on_disk,
    "dispatch_model": _dispatched,
    "hooks removed": _without_hooks,
    "several hooks": _several_hooks,
}
CALLS: dict[str, Callable[[Any], Tensor]] = {
    "gradient": lambda m: funcattr.gradient(m, x(), 1),
    "gradient at a layer": lambda m: funcattr.gradient(m, torch.tensor([[1, 2]]), 1, layer="embedding"),
    "attnlrp": lambda m: funcattr.attnlrp(m, x(), 1),
    "integrated_gradients": lambda m: funcattr.integrated_gradients(m, x(), 1, steps=3),
    "noise_tunnel": lambda m: funcattr.noise_tunnel(lambda v, t: funcattr.lrp(m, v, t), x(), 1, samples=2),
    "vmap": lambda m: torch.vmap(lambda v: funcattr.gradient(m, v[None], 1)[0])(x()),
}


def bound(found: Any) -> Tensor:
    """With another value of a tied parameter."""
    return funcattr.functionalize(found).bind({"embedding.weight": torch.eye(7, 6)})(x())


@pytest.fixture
def prepared() -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """An accelerator of a kind of precision, and a model by it."""

    def prepare(precision: str) -> tuple[Any, Any]:
        accelerate.state.AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        return accelerator, accelerator.prepare(model())

    yield prepare
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.fixture
def in_double() -> Iterator[None]:
    """Numbers of which all but a few digits are left where the same is computed in another order."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_gives_what_it_gives_on_the_plain_model(made: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    hooked: Any = made(tmp_path)
    before = _state(hooked)
    for call in CALLS.values():
        assert_equal(call(hooked), call(model()))
    if any(p.is_meta for p in hooked.parameters()):
        with pytest.raises(UnsupportedOperationError, match=r"'embedding\.weight' is offloaded by accelerate"):
            bound(hooked)
    elif hooked.head.weight is hooked.embedding.weight:  # accelerate does not tie again what it has offloaded
        assert_equal(bound(hooked), bound(model()))
    assert _state(hooked) == before
    assert_equal(hooked(x()), model()(x()))


def test_verify_holds(tmp_path: Path) -> None:
    found = funcattr.verify(_offloaded(tmp_path), x(), 1)
    assert [finding for finding in found if finding.holds is False] == []


def test_what_autocast_does_is_a_part_of_the_model(prepared: Callable[[str], tuple[Any, Any]]) -> None:
    _, in_half = prepared("bf16")
    inputs = x().requires_grad_()
    by_autograd = torch.autograd.grad(in_half(inputs)[:, 1].sum(), inputs)[0]
    assert_equal(funcattr.gradient(in_half, x(), 1), by_autograd)
    assert funcattr.gradient(in_half, x(), 1).dtype == torch.float32

    plain = model()

    def in_autocast(v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(v).float()

    assert_equal(funcattr.attnlrp(in_half, x(), 1), funcattr.attnlrp(in_autocast, x(), 1))
    assert not torch.equal(funcattr.gradient(in_half, x(), 1), funcattr.gradient(model(), x(), 1))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_unwrapped_model_is_plain(prepared: Callable[[str], tuple[Any, Any]], precision: str) -> None:
    accelerator, hooked = prepared(precision)
    unwrapped = accelerator.unwrap_model(hooked, keep_fp32_wrapper=False)
    for call in CALLS.values():
        assert_equal(call(unwrapped), call(model()))


def test_an_offloaded_parameter_is_loaded_where_it_is_read_and_not_before(tmp_path: Path) -> None:
    """Never more than the parameters of one module, as accelerate does it."""
    hooked = _offloaded(tmp_path)
    fm = funcattr.functionalize(hooked)
    assert all(p.is_meta for p in fm.params.values())
    hook: Any = vars(hooked.get_submodule("layers.0.0"))["_hf_hook"]
    reads: list[str] = []

    class Counting(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            reads.append(name)
            return hook_map[name]

    hook_map, hook.weights_map = hook.weights_map, Counting()
    fm(x())
    assert reads == ["weight", "bias"]


def _state(found: nn.Module) -> list[Any]:
    """What a call may not change."""
    tensors = [*found.named_parameters(), *found.named_buffers()]
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in found.modules()]
    hook = [dict(vars(vars(module)["_hf_hook"])) for module in found.modules() if "_hf_hook" in vars(module)]
    return [[(name, id(t), t.device, t.grad, t._version) for name, t in tensors], attributes, [str(h) for h in hook]]
