"""Heads and tails: which calls run, which results of the head the tail reads, and when the whole model runs."""

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, repeat
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr._torch import pytree
from funcattr.batch import repeated
from funcattr.methods.bottleneck.by_form import form_of
from funcattr.methods.bottleneck.head_and_tail import _Tail, split
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal
from ...zoo import CASES, Case

TIMES = 3


def whole(model: Callable[..., Any], site: str, inputs: Any) -> Callable[[Tensor], Any]:
    """What the tail has to be: the edited model, run from its start for each value."""
    positional, keyword = repeated(inputs, 2, TIMES)
    return lambda value: funcattr.edit(model, {site: lambda _: value.clone()})(*clones(positional), **clones(keyword))


def clones(tree: Any) -> Any:
    """The inputs of one call, which a model may write into."""
    return pytree.tree_map_only(Tensor, torch.clone, tree)


def parts(model: Callable[..., Any], site: str, *x: Any, **kwargs: Any) -> tuple[Any, Any]:
    return split("test", funcattr.functionalize(model), site, (x, kwargs), repeated((x, kwargs), 2, TIMES))


def behind(tail: Callable[[Tensor], Any], value: Tensor) -> tuple[Tensor, Tensor]:
    """The tail's output and a pullback of it: inside of a derivative, as `iba` calls it."""
    found: Any = torch.func.vjp(lambda value: logits(tail(value)), value)
    output, pull = found
    return output, pull(output.detach().cos())[0]


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for part, same in zip(actual, expected, strict=True):
        assert_equal(part, same)


def replays(tail: Any) -> bool:
    """Whether the tail has learned how to replay the head, and has not given it up."""
    return isinstance(tail, _Tail) and tail._head is not None


class Layers(nn.Module):
    """What is before the site, what makes its value, and what is behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mid, self.tail = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)


class Net(Layers):
    """Counts the calls of its head; the tail reads what `reads` makes of the head."""

    def __init__(self, reads: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
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
    assert_equal(found, funcattr.read(model, "mid")(x)[1]["mid"])
    for seed in (6, 7):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))
        assert replays(tail)


def test_the_head_is_computed_for_the_batch_and_once_for_its_copies() -> None:
    rows = list[int]()

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            class Count(TorchDispatchMode):
                def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                    result = func(*args, **(kwargs or {}))
                    if "exp" in str(func):
                        rows.append(len(result))
                    return result

            with Count():
                return torch.exp(x)

    model = nn.Sequential(Counted(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    _, tail = parts(model, "1", uniform(2, 4))
    for seed in range(4):
        behind(tail, uniform(2 * TIMES, 4, seed=seed))
    assert rows == [2, 2 * TIMES]


BY_FORM = {"nothing", "the input", "a constant"}
"""What a tail may read without asking for a value of the head."""


@pytest.mark.parametrize("what", READS)
def test_the_first_call_computes_a_head_only_if_it_is_read(what: str) -> None:
    _, tail = parts(net(READS[what]), "mid", uniform(2, 4))
    behind(tail, uniform(2 * TIMES, 4, seed=5))
    assert tail._is_by_form == (what in BY_FORM) and replays(tail)


class Products(TorchFunctionMode):
    """Counts the rows that linear maps compute."""

    rows = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.linear and form_of(result) is None:
            self.rows += len(result)
        return result


def test_a_head_that_is_not_read_is_never_computed_for_copies() -> None:
    with Products() as products:
        _, tail = parts(net(), "mid", uniform(2, 4))
        before = products.rows
        behind(tail, uniform(2 * TIMES, 4))
    assert products.rows - before == 2 * TIMES  # the tail's one map


def _written(h: Tensor) -> float:
    cached = torch.zeros(h.shape, dtype=h.dtype)
    cached[:, :2] = h[:, :2]
    return float(cached.sum())


def _under_autocast(h: Tensor) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return 2.0 if (h.float() @ h.float().T).dtype == torch.bfloat16 else 3.0


ASKING: dict[str, Callable[[Tensor], float]] = {
    "a number": lambda h: h.max().item(),
    "a decision": lambda h: 2.0 if h.sum() > 0 else 3.0,
    "how many are large": lambda h: float(len(h[h > 0.5])),
    "how many are unequal": lambda h: float(len(h.round(decimals=1).unique())),
    "what it wrote": _written,
    "strides": lambda h: float(h.T.stride(0)),
    "an order in memory": lambda h: 2.0 if h.T.is_contiguous() else 3.0,
    "a device": lambda h: {"cpu": 2.0}.get(h.device.type, 3.0),
    "a card": lambda h: 2.0 if h.is_cuda else 3.0,
    "no values": lambda h: 2.0 if h.is_meta else 3.0,
    "the name of a type": lambda h: float(len(h.type())),
    "a dtype under autocast": _under_autocast,
    "draws": lambda h: float(h.sum() * torch.rand(1)),
    "draws of its own": lambda h: float(torch.rand(1, dtype=h.dtype)),
    "NumPy's draws": lambda h: float(np.random.rand()) * h.shape[1],
    "Python's draws": lambda h: random.random() * h.shape[1],
    "another device": lambda h: float(h.to("cpu").sum()),
    "another thread": lambda h: ThreadPoolExecutor(1).submit(lambda: float(h.exp().sum())).result(),
    "an error": lambda h: float(_or_else(lambda: h.sum().item(), 5.0)),
}
"""Numbers that Python is given of a head, by which the tail then multiplies."""


def _or_else(number: Callable[[], float], otherwise: float) -> float:
    try:
        return number()
    except BaseException:  # which hides from whoever raises that something was raised
        return otherwise


@pytest.mark.parametrize("what", ASKING)
def test_what_python_asks_of_the_head_it_is_told(what: str) -> None:
    class Asking(Layers):
        def forward(self, x: Tensor) -> Tensor:
            h = self.head(x).sigmoid()
            number = ASKING[what](h)
            return self.tail(self.mid(h).sigmoid()) * number

    model: Any = settle(Asking).double()
    x, value = uniform(2, 4), uniform(2 * TIMES, 4, seed=7)
    results = []
    for tail in (parts(model, "mid", x)[1], whole(model, "mid", ((x,), {}))):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        results.append([behind(tail, value * scale) for scale in (1, 2)])
    for found, right in zip(*results, strict=True):
        assert_same(found, right)


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "at an index": lambda kept, h: kept.__setitem__((slice(None), slice(2)), h[:, :2]),
    "a sum": lambda kept, h: kept.add_(h[:, :3]),
    "a copy": lambda kept, h: kept.copy_(h[:, 1:]),
}


@pytest.mark.parametrize("write", WRITES)
def test_what_the_head_wrote_into_a_tensor_of_its_own_is_read(write: str) -> None:
    class Writing(Layers):
        def forward(self, x: Tensor) -> Tensor:
            h, kept = self.head(x), torch.zeros(len(x), 3, dtype=x.dtype)
            WRITES[write](kept, h)
            return self.tail(self.mid(h).sigmoid()) + kept

    model: Any = settle(Writing).double()
    x, value = uniform(2, 4), uniform(2 * TIMES, 4, seed=7)
    _, tail = parts(model, "mid", x)
    assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))


def test_draws_of_the_tail_are_drawn_once_a_call() -> None:
    model: Any = net(lambda head, x: torch.rand(1, dtype=x.dtype))
    x, value = uniform(2, 4), uniform(2 * TIMES, 4, seed=7)
    results = []
    for tail in (parts(model, "mid", x)[1], whole(model, "mid", ((x,), {}))):
        torch.manual_seed(0)
        results.append([behind(tail, value) for _ in range(3)])
    for found, right in zip(*results, strict=True):
        assert_same(found, right)


def in_place(head: Tensor, x: Tensor) -> Tensor:
    return head.mul_(2)[:, :1]


@pytest.mark.parametrize("seed", [6, 7])
def test_tail_may_write_into_what_it_reads(seed: int) -> None:
    model, x, value = net(in_place), uniform(2, 4), uniform(2 * TIMES, 4, seed=seed)
    _, tail = parts(model, "mid", x)
    for _ in range(2):
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))


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
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))


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
    assert_same(behind(tail, value), behind(whole(model, "head", ((x,), {})), value))
    assert model.tables == {}


def test_hooks_see_real_values_only() -> None:
    model, seen = net(), list[Any]()
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    _, tail = parts(model, "mid", uniform(2, 4))
    for _ in range(2):
        behind(tail, uniform(2 * TIMES, 4))
    assert len(seen) == 3 and not replays(tail)


def test_inference_mode_runs_whole() -> None:
    with torch.inference_mode():
        model, x, value = net(READS["a skip connection"]), uniform(2, 4), uniform(2 * TIMES, 4)
        _, tail = parts(model, "mid", x)
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))


class Early(nn.Module):
    """Does something in its head that may be impossible to replay."""

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


ACTS: dict[str, Callable[[Tensor], Any]] = {
    "control flow": lambda x: 1.0 if x.sum() > 0 else 2.0,
    "a number": lambda x: x.sum().item(),
    "a size": lambda x: x.exp().shape.numel() / 8.0,
    "a write into the input": _writes,
    "a write into a view of the input": _writes_into_a_view,
    "a transform of its own": lambda x: torch.func.vmap(torch.sum)(x)[:, None],
    "a derivative of its own": lambda x: torch.func.grad(lambda v: v.exp().sin().sum())(x)[:, :1],
    "rows in another order": lambda x: x.T.reshape(-1)[: len(x), None] * 0 + x.T.contiguous().sum(0)[:, None],
    "a draw": lambda x: 1.0 + 0.0 * torch.rand(3, dtype=x.dtype),
    "a draw in place": lambda x: 1.0 + 0.0 * torch.empty(3, dtype=x.dtype).normal_(),
    "a list": lambda x: x.sum(0).tolist()[0],
    "a shape that is changed in place": lambda x: x[:, 0].exp().unsqueeze_(1),
    "a result of its own that is written": lambda x: x.exp().clone().mul_(2)[:, :1],
    "results that are written by name": lambda x: torch.max(x, 1, keepdim=True, out=_empty_maxima(x))[0],
    "a scripted function of the input": lambda x: _scripted(x),
    "a scripted function": lambda x: _scripted(x.exp()),
    "a number of a scripted function": lambda x: _scripted_number(x.exp()),
    "a write into a result of a scripted function": lambda x: _scripted(x).add_(1),
    "a write into a view of a scripted function's": lambda x: _added_to_a_view(_scripted(x)),
    "rows one by one": lambda x: sum(row[:1] for row in x.exp()),
    "sparse tensors": lambda x: torch.sparse.mm(x.exp().to_sparse(), x.T)[:, :1],
    "a scripted write": lambda x: _written_by_script(x.exp()),
    "a scripted write into the input": lambda x: _written_by_script(x),
}
REPLAYED = {
    "control flow",
    "a number",
    "a size",
    "rows in another order",
    "a list",
    "rows one by one",
    "a result of its own that is written",
    "results that are written by name",
    "a scripted function of the input",  # which it computes from the input, every time
}


def _added_to_a_view(x: Tensor) -> Tensor:
    x[:, :1].add_(1)
    return x


def _empty_maxima(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(len(x), 1, dtype=x.dtype), torch.empty(len(x), 1, dtype=torch.long)


@pytest.mark.parametrize("what", ACTS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_replayed_runs_whole(what: str) -> None:
    model, x = settle(lambda: Early(ACTS[what])).double(), uniform(2, 4)
    before = x.clone()
    found, tail = parts(model, "mid", x.clone())
    assert_equal(found, funcattr.read(model, "mid")(x.clone())[1]["mid"])
    for seed in (8, 9):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(model, "mid", ((before,), {})), value))
    assert replays(tail) == (what in REPLAYED)


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True).exp()


@torch.jit.script
def _scripted_number(x: Tensor) -> float:
    return float(x.sum())


@torch.jit.script
def _written_by_script(x: Tensor) -> Tensor:
    return x.mul_(2)[:, :1]


def test_what_leaves_torch_runs_whole() -> None:
    """Numpy, which no derivative of torch.func goes through either."""
    model, x = settle(lambda: Early(lambda x: float(x.detach().numpy().sum()))).double(), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for seed in (8, 9):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_equal(tail(value), whole(model, "mid", ((x,), {}))(value))
    assert not replays(tail)


class Drops(nn.Module):
    """Draws in its head by a function that does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mid = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(x, x, x, need_weights=False)[0]
        return self.mid(h) + h


def test_hidden_draws_are_drawn_again() -> None:
    model, x = settle(Drops).double().train(), uniform(2, 5, 4)
    _, tail = parts(model, "mid", x)
    found = []
    for seed in (8, 9, 9):
        value = uniform(2 * TIMES, 5, 4, seed=seed)
        state = torch.get_rng_state()
        found.append(behind(tail, value))
        torch.set_rng_state(state)
        assert_same(found[-1], behind(whole(model, "mid", ((x,), {})), value))
    assert not torch.allclose(found[1][0], found[2][0])


def test_a_generator_of_the_models_own_moves_on_in_each_call() -> None:
    generator = torch.Generator()
    model = settle(lambda: Early(lambda x: torch.rand(3, dtype=x.dtype, generator=generator))).double()
    x = uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for seed in (8, 9):
        value, state = uniform(2 * TIMES, 4, seed=seed), generator.get_state()
        found = behind(tail, value)
        generator.set_state(state)
        assert_same(found, behind(whole(model, "mid", ((x,), {})), value))
    assert not replays(tail)


def test_a_tail_may_be_mapped_over_values() -> None:
    model, x = net(READS["a skip connection"]), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    values = uniform(3, 2 * TIMES, 4, seed=6)
    for _ in range(2):
        found = torch.vmap(lambda value: behind(tail, value))(values)
        each = [behind(whole(model, "mid", ((x,), {})), value) for value in values]
        assert_same(found, (torch.stack([one[0] for one in each]), torch.stack([one[1] for one in each])))
    assert replays(tail)


def _filled(generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(1, dtype=torch.float64), generator=generator)


CHANGING: dict[str, Callable[[], Iterator[Tensor]]] = {
    "tensors in turn": lambda: iter([torch.full((1,), float(at), dtype=torch.float64) for at in range(9)]),
    "one tensor, written in between": lambda: (t.add_(1) for t in repeat(torch.zeros(1, dtype=torch.float64))),
    "numpy's numbers": lambda: (torch.from_numpy(np.array([float(at)])) for at in count()),
    "a generator's": lambda: (_filled(g) for g in repeat(torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("what", CHANGING)
def test_a_head_that_reads_something_else_at_each_call_is_not_replayed(what: str) -> None:
    read: list[Tensor] = []
    values = CHANGING[what]()

    def act(x: Tensor) -> Tensor:
        read.append(next(values).clone())
        return x[:, :1] + read[-1]

    model: Any = settle(lambda: Early(act)).double()
    x = uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for _ in range(3):
        value = uniform(2 * TIMES, 4)
        found = tail(value)
        xs = x.repeat_interleave(TIMES, 0)
        assert_equal(found, model.tail(value) * (xs[:, :1] + read[-1]) + xs[:, :1])
    assert not replays(tail)


def test_a_head_that_is_no_function_of_its_inputs_is_not_replayed() -> None:
    # Of the batch, of the copies by their forms, of the copies, of a replay that ends there.
    numbers = iter([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    model, x = settle(lambda: Early(lambda x: (x.exp() * next(numbers))[:, :1])).double(), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    value = uniform(2 * TIMES, 4, seed=8)
    behind(tail, value)
    found = behind(tail, value)
    assert_same(found, behind(whole(model, "mid", ((x,), {})), value))
    assert not replays(tail)


class Buffers(nn.Module):
    """Writes into buffers of its own in the head, and reads them in the tail."""

    values: Tensor
    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Linear(4, 4)
        self.register_buffer("values", torch.zeros(6))
        self.register_buffer("places", torch.zeros(6, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        values, places = self.values[: len(x)], self.places[: len(x)]
        torch.max(x, 1, out=(values, places))
        return self.mid(x) * self.values[: len(x), None] + self.places[: len(x), None]


def test_buffers_that_the_head_writes_are_written_in_each_call() -> None:
    model, x = settle(Buffers).double(), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for seed in (8, 9):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))
    assert not replays(tail)


class Constant(nn.Module):
    """Without gradients from its head into its tail."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mid, self.tail = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.mid(self.head(x))
            constant = h.exp()
        return self.tail(h * constant)


def test_gradients_stay_off_where_the_head_has_switched_them_off() -> None:
    model, x = settle(Constant).double(), uniform(2, 4)
    _, tail = parts(model, "mid", x)
    for seed in (8, 9):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(model, "mid", ((x,), {})), value))
        assert replays(tail) and torch.is_grad_enabled()


class Learns(nn.Module):
    """Whose tail reads another result of the head for another value, or writes into what it reads for some."""

    def __init__(self, reads: Callable[..., Tensor]) -> None:
        super().__init__()
        self.head, self.mid, self.reads = nn.Linear(4, 4), nn.Linear(4, 4), reads

    def forward(self, x: Tensor) -> Tensor:
        a = self.head(x)
        b = a.exp()
        view, count = x[:, 1:2], a.argmax(1)[0]
        h = self.mid(b)
        return self.reads(a, b, h, x=x, view=view, count=count)


def _caught(a: Tensor, b: Tensor, h: Tensor, **_: Any) -> Tensor:
    try:
        return h + a if h[0, 0] > 0 else h + b
    except BaseException:  # the tail may catch what it likes
        return h


@torch.jit.script
def _scripted_write(h: Tensor, by: Tensor):
    h.add_(by)


def _written_by_scripted(a: Tensor, b: Tensor, h: Tensor, **_: Any) -> Tensor:
    h = h.clone()
    if h[0, 0] > 0:
        _scripted_write(h, a)
    return h


def _caught_in_script(a: Tensor, b: Tensor, h: Tensor, **_: Any) -> Tensor:
    try:
        return h + _scripted(a) if h[0, 0] > 0 else h + b
    except Exception:
        return h


def _input_is_written(a: Tensor, b: Tensor, h: Tensor, *, x: Tensor, view: Tensor, **_: Any) -> Tensor:
    if h[0, 0] > 0:
        x.mul_(2)
    return h + view


READINGS = [
    lambda a, b, h, **_: h * (a if h[0, 0] > 0 else b),
    lambda a, b, h, **_: h + (a.mul_(2) if h[0, 0] > 0 else a),
    lambda a, b, h, **_: h + (a[:, :1].mul_(2) if h[0, 0] > 0 else a[:, :1]),
    lambda a, b, h, **_: h + (_scripted(a) if h[0, 0] > 0 else b),
    lambda a, b, h, **_: h + (_written_by_script(a) if h[0, 0] > 0 else a),
    lambda a, b, h, count, **_: h * (h[:, :1] if h[0, 0] > 0 else h[: count + 1].mean()),
    lambda a, b, h, count, **_: h * (h[: count + 1].mean() if h[0, 0] > 0 else h[:, :1]),
    lambda a, b, h, **_: h + (_written_by_script(a[:, :1]) if h[0, 0] > 0 else a[:, :1]),
    lambda a, b, h, view, **_: h * (view.stride(0) if h[0, 0] > 0 else 2),
    lambda a, b, h, view, **_: h * (1 + view.storage_offset() if h[0, 0] > 0 else 3),
    lambda a, b, h, **_: a if h[0, 0] > 0 else h,
    lambda a, b, h, **_: torch.func.vmap(torch.mul)(h, a) if h[0, 0] > 0 else h,
    lambda a, b, h, **_: torch.func.vmap(torch.mul)(h, a) if h[0, 0] <= 0 else h,
    _caught,
    _caught_in_script,
    _written_by_scripted,
    _input_is_written,
]


@pytest.mark.parametrize("reads", READINGS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_tail_whose_reading_depends_on_the_value(reads: Any) -> None:
    model, x = settle(lambda: Learns(reads)).double(), uniform(2, 4)
    expected = whole(model, "mid", ((x,), {}))
    negative = -uniform(2 * TIMES, 4, seed=8).abs()
    for signs in itertools.product((1, -1), repeat=3):
        for without in (False, True):  # a derivative, behind the first call
            _, tail = parts(model, "mid", x)
            assert_same(behind(tail, negative), behind(expected, negative))
            for sign in signs:
                value = sign * negative
                if without:
                    assert_equal(tail(value), expected(value))
                else:
                    assert_same(behind(tail, value), behind(expected, value))


def test_control_flow_of_the_tail_is_the_tails() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Switch(), nn.Linear(4, 3)).double()
    _, tail = parts(model, "0", uniform(2, 4))
    for sign in (1.0, -1.0):
        value = sign * uniform(2 * TIMES, 4, seed=8).abs()
        assert_same(behind(tail, value), behind(whole(model, "0", ((uniform(2, 4),), {})), value))


class Switch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp() if x.sum() > 0 else x.sin()


def test_a_model_with_edits_of_its_own() -> None:
    model, x = net(READS["a skip connection"]), uniform(2, 4)
    edited = funcattr.edit(model, {"head": torch.sin, "mid": torch.cos, "tail": torch.exp})
    _, tail = parts(edited, "mid", x)
    for seed in (6, 7):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(edited, "mid", ((x,), {})), value))
        assert replays(tail)


def test_a_plain_function() -> None:
    x, weight = uniform(2, 4), uniform(4, 4, seed=2)

    def model(x: Tensor, *, scale: Tensor) -> Tensor:
        skip = (x @ weight).sin()
        return funcattr.site(skip.exp(), "middle") @ weight * scale + skip

    inputs: Any = ((x,), {"scale": uniform(2, 1, seed=3)})
    _, tail = parts(model, "middle", x, **inputs[1])
    for seed in (6, 7):
        value = uniform(2 * TIMES, 4, seed=seed)
        assert_same(behind(tail, value), behind(whole(model, "middle", inputs), value))
        assert replays(tail)


def test_derivatives_by_the_input_go_through_what_the_tail_reads() -> None:
    model = net(READS["a skip connection"])

    def number(tail: Any, value: Tensor) -> Tensor:
        return torch.stack([(part * part.detach().cos()).sum() for part in behind(tail, value)]).sum()

    found = []
    for of in (lambda x: parts(model, "mid", x)[1], lambda x: whole(model, "mid", ((x,), {}))):
        x, value = uniform(2, 4).requires_grad_(), uniform(2 * TIMES, 4, seed=6).requires_grad_()
        tail = of(x)
        total = number(tail, value) + number(tail, 2 * value)
        found.append(torch.autograd.grad(total, (x, value)))
    assert_same(*found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_edited_model(case: Case) -> None:
    model = case.build()
    x, extra = case.inputs(), case.kwargs()
    inputs: Any = ((), {case.key: x[0], **extra}) if case.key else (x, extra)
    value, tail = split("test", funcattr.functionalize(model), case.layer, inputs, repeated(inputs, 2, TIMES))
    if not isinstance(value, Tensor) or len(value) != 2:
        pytest.fail(f"{case.name}: {case.layer} has no value with a row for each example")
    given = repeated(value, 2, TIMES) + 0.1 * uniform(2 * TIMES, *value.shape[1:], seed=3)
    expected = behind(whole(model, case.layer, inputs), given)
    for _ in range(2):
        for part, same in zip(behind(tail, given), expected, strict=True):
            torch.testing.assert_close(part, same, rtol=1e-9, atol=1e-9)
    assert replays(tail)
