"""Heads and tails: what runs, what the tail reads of the head, and when the whole model runs instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr.engine.examples import repeated
from funcattr.engine.parts import _Skipping, split, values_at

from ..models import CASES, Case
from ..models.seeding import settle, uniform

TIMES = 3


def expected_tail(model: nn.Module, site: str, inputs: Any, value: Tensor) -> Any:
    positional, keyword = repeated(inputs, 2, TIMES)
    return funcattr.edit(model, {site: lambda _: value.clone()})(*positional, **keyword)


def parts(model: Callable[..., Any], site: str, *x: Any, **kwargs: Any) -> tuple[Any, Any]:
    return split("test", funcattr.functionalize(model), site, (x, kwargs), 2, TIMES)


class Net(nn.Module):
    """Counts the calls of its head; the tail reads what `reads` makes of the head."""

    def __init__(self, reads: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.mid, self.tail = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.reads, self.calls = reads, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x).relu()
        self.calls.append(head)
        h = self.mid(head)
        return self.tail(h.sigmoid()) + self.reads(head, x)


def net(reads: Callable[[Tensor, Tensor], Any] = lambda head, x: 0.0) -> Any:
    return settle(lambda: Net(reads)).double()


READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "nothing": lambda head, x: 0.0,
    "a skip connection": lambda head, x: head[:, :1],
    "the input": lambda head, x: x[:, :1],
    "a view": lambda head, x: head.T[:1].T,
    "a part of a result": lambda head, x: head.split(2, dim=1)[1][:, :1],
    "a constant": lambda head, x: torch.ones(3, dtype=x.dtype),
    "a shape": lambda head, x: head.shape[1] / 10,
    "a device": lambda head, x: torch.full((3,), 2.0, device=head.device, dtype=head.dtype),
}


@pytest.mark.parametrize("what", READS)
def test_tail_reads_of_the_head(what: str) -> None:
    model, x, value = net(READS[what]), uniform(2, 4), uniform(2 * TIMES, 4, seed=5)
    found, tail = parts(model, "mid", x)
    assert isinstance(tail, _Skipping)
    assert torch.equal(found, funcattr.read(model, "mid")(x)[1]["mid"])
    for seed in (6, 7):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert torch.equal(tail(value), expected_tail(model, "mid", ((x,), {}), value))


def test_the_head_is_computed_once_and_for_the_batch_as_it_is() -> None:
    rows = list[int]()

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            class Count(TorchDispatchMode):
                def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                    result = func(*args, **(kwargs or {}))
                    if "exp" in str(func) and not isinstance(result, torch._subclasses.FakeTensor):
                        rows.append(len(result))
                    return result

            with Count():
                return torch.exp(x)

    model = nn.Sequential(Counted(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    _, tail = parts(model, "1", uniform(2, 4))
    for seed in range(4):
        tail(uniform(2 * TIMES, 4, seed=seed))
    assert rows == [2]


def in_place(head: Tensor, x: Tensor) -> Tensor:
    return head.mul_(2)[:, :1]


def _looks(head: Tensor, x: Tensor) -> Any:
    return 1.0 if head.sum() > 0 else 2.0


@pytest.mark.parametrize("seed", [6, 7])
def test_tail_may_write_into_what_it_reads(seed: int) -> None:
    model, x, value = net(in_place), uniform(2, 4), uniform(2 * TIMES, 4, seed=seed)
    _, tail = parts(model, "mid", x)
    for _ in range(2):
        assert torch.equal(tail(value), expected_tail(model, "mid", ((x,), {}), value))


class Blocks(nn.Module):
    """A residual block whose skip connection is one object under several calls, or memory shared by several."""

    def __init__(self, tail: Callable[[nn.Module, Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.head, self.mid, self.last, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), nn.ReLU(True)
        self.join = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self.mid, self.relu(self.head(x)), self.relu))


def _added_in_place(mid: Any, h: Tensor, relu: Any) -> Tensor:
    r = mid(h)
    r += h
    return r


def _written_by_index(mid: Any, h: Tensor, relu: Any) -> Tensor:
    h = h.contiguous()
    r = mid(h).clone()
    r[:, 0] = h[:, 0]
    return r


def _into_a_buffer(mid: Any, h: Tensor, relu: Any) -> Tensor:
    buffer = torch.zeros(len(h), 8, dtype=h.dtype)
    left = buffer[:, :4]
    left.copy_(mid(h))
    return buffer[:, :4] + buffer[:, 4:]


def _through_a_view(mid: Any, h: Tensor, relu: Any) -> Tensor:
    keep = torch.empty_like(h)
    keep[:] = h * 3
    view, r = keep[:, :1], mid(h)
    keep.add_(1)
    return r + view


def _through_a_name(mid: Any, h: Tensor, relu: Any) -> Tensor:
    t = h.sigmoid()
    z = t
    z += 1
    r = mid(h)
    z += 1
    return r * t


def _numbered_rows(mid: Any, h: Tensor, relu: Any) -> Tensor:
    rows = torch.arange(len(h), dtype=h.dtype)
    return mid(h) + rows[:, None]


def _first_row(mid: Any, h: Tensor, relu: Any) -> Tensor:
    weight = torch.zeros(len(h), 4, dtype=h.dtype)
    weight[0] = 1
    return mid(h) + weight


JOINS = [
    _added_in_place,
    _written_by_index,
    _into_a_buffer,
    _through_a_view,
    _through_a_name,
    _numbered_rows,
    _first_row,
    lambda mid, h, relu: mid(h).add_(relu(h.contiguous())),
    lambda mid, h, relu: mid(h) + F.dropout(h, 0.5, False).float().double(),
]


@pytest.mark.parametrize("join", JOINS)
def test_one_tensor_under_several_names(join: Any) -> None:
    model, x = settle(lambda: Blocks(join)).double(), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for seed in (6, 7):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert torch.equal(tail(value), expected_tail(model, "mid", ((x,), {}), value))


class Keeps(nn.Module):
    """Keeps what it has computed, for batches of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mid, self.tables = nn.Linear(4, 4), nn.Linear(4, 3), dict[int, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.ones(len(x), 4, dtype=x.dtype) * 2
        return self.mid(self.head(x) * self.tables[len(x)]) * self.tables[len(x)][:, :3]


def test_what_a_model_keeps_stays_with_the_call() -> None:
    model, x = settle(Keeps).double(), uniform(2, 4)
    _, tail = parts(model, "head", x)
    value = uniform(2 * TIMES, 4, seed=6)
    assert torch.equal(tail(value), expected_tail(model, "head", ((x,), {}), value))
    assert model.tables == {}


def test_hooks_see_real_values_only() -> None:
    model, seen = net(), list[Any]()
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    _, tail = parts(model, "mid", uniform(2, 4))
    tail(uniform(2 * TIMES, 4))
    assert len(seen) == 2
    assert not any(isinstance(value, torch._subclasses.FakeTensor) for value in seen)


def test_inference_mode_runs_whole() -> None:
    with torch.inference_mode():
        model, x, value = net(READS["a skip connection"]), uniform(2, 4), uniform(2 * TIMES, 4)
        _, tail = parts(model, "mid", x)
        assert torch.equal(tail(value), expected_tail(model, "mid", ((x,), {}), value))


class Early(nn.Module):
    """Does something in its head that no plan can be made of."""

    def __init__(self, act: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.mid, self.tail, self.act = nn.Linear(4, 4), nn.Linear(4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        found = self.act(x)
        return self.tail(self.mid(x)) * found + x[:, :1]


def _writes(x: Tensor) -> Any:
    x.mul_(2)
    return 1.0


def _writes_into_a_view(x: Tensor) -> Any:
    x[:, 1:].mul_(2)
    return 1.0


def _by_numpy(x: Tensor) -> Any:
    return float(x.detach().numpy().sum())


ACTS: dict[str, Callable[[Tensor], Any]] = {
    "control flow": lambda x: 1.0 if x.sum() > 0 else 2.0,
    "a number": lambda x: x.sum().item(),
    "numpy": _by_numpy,
    "a write into the input": _writes,
    "a write into a view of the input": _writes_into_a_view,
    "a transform of its own": lambda x: torch.func.vmap(torch.sum)(x)[:, None],
    "rows in another order": lambda x: x.T.reshape(-1)[: len(x), None] * 0 + x.T.contiguous().sum(0)[:, None],
}


@pytest.mark.parametrize("what", ACTS)
def test_what_cannot_be_taken_apart_runs_whole(what: str) -> None:
    model, x = settle(lambda: Early(ACTS[what])).double(), uniform(2, 4)
    before = x.clone()
    found, tail = parts(model, "mid", x.clone())
    assert torch.equal(found, funcattr.read(model, "mid")(x.clone())[1]["mid"])
    value = uniform(2 * TIMES, 4, seed=8)
    assert torch.equal(tail(value), expected_tail(model, "mid", ((before,), {}), value))


def test_control_flow_of_the_tail_is_the_tails() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Switch(), nn.Linear(4, 3)).double()
    _, tail = parts(model, "0", uniform(2, 4))
    for sign in (1.0, -1.0):
        value = sign * uniform(2 * TIMES, 4, seed=8).abs()
        assert torch.equal(tail(value), expected_tail(model, "0", ((uniform(2, 4),), {}), value))


class Switch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp() if x.sum() > 0 else x.sin()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_edited_model(case: Case) -> None:
    model = case.build()
    x, extra = case.inputs(), case.kwargs()
    inputs: Any = ((), {case.key: x[0], **extra}) if case.key else (x, extra)
    value, tail = split("test", funcattr.functionalize(model), case.layer, inputs, 2, TIMES)
    if not isinstance(value, Tensor) or len(value) != 2:
        pytest.fail(f"{case.name}: {case.layer} has no value with a row for each example")
    given = repeated(value, 2, TIMES) + 0.1 * uniform(2 * TIMES, *value.shape[1:], seed=3)
    actual, expected = tail(given), expected_tail(model, case.layer, inputs, given)
    torch.testing.assert_close(logits(actual), logits(expected), rtol=1e-9, atol=1e-9)


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


# --- values ----------------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the tail runs")


def test_only_what_comes_before_the_last_site_runs() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), Fails()).double()
    x = uniform(2, 4)
    values = values_at("test", funcattr.functionalize(model), ("2", "0"), ((x,), {}))
    h = model[0](x)
    torch.testing.assert_close(values["0"], h)
    torch.testing.assert_close(values["2"], model[2](F.relu(h)))


def test_an_unknown_site_is_named() -> None:
    with pytest.raises(funcattr.UnknownSiteError, match=r"test: no such site 'mud'. Closest: 'mid'"):
        parts(net(), "mud", uniform(2, 4))
    with pytest.raises(funcattr.UnknownSiteError, match=r"test: no such site 'mud'. Closest: 'mid'"):
        values_at("test", funcattr.functionalize(net()), ("mid", "mud"), ((uniform(2, 4),), {}))


# --- what goes into a module -----------------------------------------------------------------------------------------


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(input=self.a(self.a(x)).relu())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(by=x.sigmoid(), x=x)


class Gate(nn.Module):
    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        return x * by


def test_the_input_is_the_first_parameter_of_forward() -> None:
    x = uniform(2, 4)
    assert torch.equal(funcattr.read(Gated(), "gate@input")(x)[1]["gate@input"], x)


def test_inputs_of_modules_are_sites() -> None:
    model: Any = settle(Keyword)
    x = uniform(2, 4)
    _, values = funcattr.read(model, "b@input", "a@input", "a@input#1", "a")(x)
    assert torch.equal(values["a@input"], x)
    assert torch.equal(values["a@input#1"], values["a"])
    assert torch.equal(model.b(values["b@input"]), model(x))
    assert torch.equal(funcattr.edit(model, {"b@input": torch.zeros_like})(x), model.b.bias.expand(2, 3))


def test_inputs_of_modules_are_layers(fresh_dynamo: None) -> None:
    model: Any = settle(Keyword)
    x = uniform(2, 4)
    at_input = funcattr.gradient(model, x, 1, layer="b@input")
    assert torch.equal(at_input, model.b.weight[1].expand(2, 4))
    fm = funcattr.functionalize(model)
    compiled = torch.compile(
        lambda x: funcattr.gradient(fm, x, 1, layer="b@input"), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(x), at_input)
    with pytest.raises(funcattr.UnknownSiteError, match="no such site 'c@input'"):
        funcattr.gradient(model, x, 1, layer="c@input")
