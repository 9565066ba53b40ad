"""What runs in each of the processes: calls on a sharded model, and the same calls on the plain one."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import funcattr
from funcattr import rules
from funcattr.language import explain

from ..contract import ROWS, Row
from ..language.models import byte_level
from .models import Checkpointed, Llama, Pictures, Words, fsdp, half, mesh, parallel, seeded

Call = Callable[[Any], Tensor]


class Case(NamedTuple):
    """A call on a model.

    Attributes:
        make: The plain model.
        shard: What shards it.
        call: The call.
        expected: What it is compared with: the call on the plain model, or something else of the sharded one.
    """

    make: Callable[[], nn.Module]
    shard: Callable[[Any], nn.Module]
    call: Callable[[Any], Any]
    expected: Call | None = None


def pictures() -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words() -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def embeddings() -> Tensor:
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def bits(make: Callable[[], nn.Module], x: Tensor, layer: str, model: Any) -> Tensor:
    statistics = funcattr.bottleneck.feature_statistics(seeded(make), [(x,)], layer=layer)
    return funcattr.iba(model, x, 1, statistics=statistics, steps=2, samples=2)


def tunnel(model: Any) -> Tensor:
    method = partial(funcattr.attnlrp, model)
    return funcattr.noise_tunnel(method, words(), 1, samples=3, sigma=0.2, generator=3)


def mapped(model: Any) -> Tensor:
    fm = funcattr.functionalize(model)
    return torch.vmap(lambda one: funcattr.gradient(fm, one[None], 1)[0])(words())


def stacked(model: Any) -> Tensor:
    """Three models in one, by their parameters."""
    fm, scales = funcattr.functionalize(model), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    weight, x = torch.eye(8, dtype=torch.float64), words()

    def of_scale(scale: Tensor) -> Tensor:
        return funcattr.attnlrp(fm.bind({"layers.0.attention.o.weight": scale * weight}), x, 1)

    return torch.vmap(of_scale)(scales)


def differentiated(model: Any) -> Tensor:
    weight = torch.eye(8, dtype=torch.float64)
    fm = funcattr.functionalize(model)

    def of_weight(weight: Tensor) -> Tensor:
        return funcattr.gradient(fm.bind({"layers.0.attention.o.weight": weight}), words(), 1).square().sum()

    return torch.func.grad(of_weight)(weight)


def pulled_later(model: Any) -> Tensor:
    """Between the pass and its pullback the model is gathered, and sharded again."""
    _, pull = funcattr.vjp(model, words(), rules="attnlrp")
    if hasattr(model, "unshard"):
        model.unshard()
        model.reshard()
    return pull(torch.ones(2, 10, dtype=torch.float64))[0]


def gathered_before(model: Any) -> Tensor:
    """The model is not sharded when it is functionalised, and is when it is called."""
    if hasattr(model, "unshard"):
        model.unshard()
    fm = funcattr.functionalize(model)
    if hasattr(model, "reshard"):
        model.reshard()
        model.layers[0].unshard()
    return funcattr.attnlrp(fm, words(), 1)


def written_in_between(model: Any) -> Tensor:
    """Between the pass and its pullback a parameter is written, which the pullback would gather again."""
    _, pull = funcattr.vjp(model, words(), rules="attnlrp")
    with torch.no_grad():
        model.layers[0].gate.weight.mul_(2)
    return pull(torch.ones(2, 10, dtype=torch.float64))[0]


def after_a_step(model: Any) -> Tensor:
    """A functional model sees what an optimiser writes."""
    fm = funcattr.functionalize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return funcattr.gradient(fm, words(), 1)


def all_sites(model: Any) -> Tensor:
    names = ("layers.0.attention.q", "layers.1.gate", "layers.1")
    return torch.cat([value.flatten() for value in funcattr.read(model, *names)(words())[1].values()])


def verified(model: Any) -> Tensor:
    """One, if nothing that `verify` looks at is wrong."""
    wrong = [finding for finding in funcattr.verify(model, words(), 1) if finding.holds is False]
    return torch.tensor(0.5 if wrong else 1.0)


WORD_CALLS: dict[str, Call] = {
    "gradient": lambda m: funcattr.gradient(m, words(), 1),
    "gradient at a layer": lambda m: funcattr.gradient(m, torch.tensor([[1, 2, 3]]), 1, layer="embedding"),
    "gradient of a function": lambda m: funcattr.gradient(m, words(), lambda out: out[:, 1] - out[:, 2]),
    "lrp": lambda m: funcattr.lrp(m, words(), 1, rules=rules.epsilon_everywhere()),
    "attribute": lambda m: funcattr.attribute(m, words(), 1, rules={"dense": rules.gamma(gamma=0.3)}).cotangent,
    "attnlrp": lambda m: funcattr.attnlrp(m, words(), 1),
    "cp_lrp": lambda m: funcattr.cp_lrp(m, words(), 1),
    "integrated_gradients": lambda m: funcattr.integrated_gradients(m, words(), 1, steps=3),
    "noise_tunnel": tunnel,
    "iba": lambda m: bits(Words, words(), "layers.0", m),
    "vmap": mapped,
    "vmap over parameters": stacked,
    "derivative by a bound parameter": differentiated,
    "pulled back later": pulled_later,
    "gathered before": gathered_before,
    "after a step": after_a_step,
    "sites": all_sites,
    "verify": verified,
}


def explained(model: Any) -> Tensor:
    """From tokens to a matrix: the embeddings are read from the module that has them."""
    return explain(model.llama, byte_level(), "ab cd", continuation="xy").attributions


LLAMA_CALLS: dict[str, Call] = {
    "gradient": lambda m: funcattr.gradient(m, embeddings(), 1),
    "lrp": lambda m: funcattr.lrp(m, embeddings(), 1, rules=rules.epsilon_everywhere(), start="one"),
    "attnlrp": lambda m: funcattr.attnlrp(m, embeddings(), 1),
    "cp_lrp": lambda m: funcattr.cp_lrp(m, embeddings(), 1),
    "integrated_gradients": lambda m: funcattr.integrated_gradients(m, embeddings(), 1, steps=3),
    "noise_tunnel": lambda m: funcattr.noise_tunnel(
        partial(funcattr.gradient, m), embeddings(), 1, samples=3, sigma=0.2, generator=3
    ),
    "explain": explained,
    "iba": lambda m: bits(Llama, embeddings(), "llama.model.layers.0", m),
}


def _autograd(x: Tensor, model: Any) -> Tensor:
    """The gradient as PyTorch takes it through the sharded model itself."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 1].sum(), x)[0]


def _group(model: Any) -> nn.Module:
    """Several modules that are gathered together."""
    fully_shard([model.layers[0].gate, model.layers[0].up], mesh=mesh())
    return fsdp(model)


class Counts(nn.Module):
    """Counts on a number of heads for each process."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.q, self.o = heads, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.softmax(self.q(x).unflatten(-1, (self.heads, -1)), -1).flatten(-2))


def _counting(model: Any) -> nn.Module:
    model.heads = 2
    return parallelize_module(model, mesh(), {"q": ColwiseParallel(), "o": RowwiseParallel()})


def _own_layout(model: Any) -> nn.Module:
    return distribute_module(model, mesh(), None, lambda module, inputs, mesh: inputs)


def _both_ways(model: Any) -> nn.Module:
    grid = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, grid["tensor"], {"q": ColwiseParallel(), "o": RowwiseParallel()})
    return fully_shard(model, mesh=grid["data"])


def _gradient_of_dense(model: Any) -> Tensor:
    return funcattr.gradient(model, words(), (0, 1))


def _bound_to_a_part(model: Any) -> Tensor:
    return funcattr.functionalize(model).bind(dict(model.named_parameters()))(words())


def _pickled(model: Any) -> Any:
    return pickle.dump(funcattr.functionalize(model), io.BytesIO())


def _compiled(model: Any) -> Any:
    return torch.compile(lambda x: funcattr.gradient(model, x, 1), backend="eager", fullgraph=True)(words())


def _old(model: Any) -> Any:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


REFUSED: dict[str, Case] = {
    "heads for each process": Case(Counts, _counting, _gradient_of_dense),
    "a layout of one's own": Case(Counts, _own_layout, _gradient_of_dense),
    "both ways at once": Case(Counts, _both_ways, _gradient_of_dense),
    "FullyShardedDataParallel": Case(Counts, _old, _gradient_of_dense),
    "bound to a part": Case(Words, fsdp, _bound_to_a_part),
    "pickled": Case(Words, fsdp, _pickled),
    "copied": Case(Words, fsdp, lambda m: copy.deepcopy(funcattr.functionalize(m))),
    "written in between": Case(Words, fsdp, written_in_between),
    "folded": Case(Pictures, fsdp, lambda m: funcattr.functionalize(m, fold=True)),
    "compiled": Case(Words, parallel, _compiled),
}


_OFTEN = "gradient,lrp,attnlrp,integrated_gradients,noise_tunnel,iba,vmap,gathered before".split(",")
_OFTEN_REFUSED = (
    *("heads for each process", "both ways at once", "FullyShardedDataParallel", "bound to a part", "folded"),
    "written in between",
)


def table(every: bool) -> Iterator[tuple[str, Case]]:
    """The cases by name; `every` one, with the rows of the contract's table and a Llama of transformers, or some."""
    for name, shard in (("fsdp", fsdp), ("parallel", parallel)):
        yield f"{name}: as autograd", Case(Words, shard, WORD_CALLS["gradient"], partial(_autograd, words()))
        for call in WORD_CALLS if every else _OFTEN:
            yield f"{name}: {call}", Case(Words, shard, WORD_CALLS[call])
        for row in ROWS if every else [row for row in ROWS if row.name == "lrp_epsilon_plus"]:
            yield f"{name}: row {row.name}", Case(Pictures, shard, partial(_of_row, row))
        for call in LLAMA_CALLS if every else ():
            yield f"{name}: llama {call}", Case(Llama, shard, LLAMA_CALLS[call])
    yield "fsdp: checkpointed", Case(Checkpointed, fsdp, WORD_CALLS["gradient"])
    yield "fsdp: a group", Case(Words, _group, WORD_CALLS["attnlrp"])
    in_half = partial(funcattr.gradient, x=words().float(), target=1)
    yield "fsdp: half precision", Case(_single, half, in_half, partial(_autograd, words().float()))
    for name in REFUSED if every else _OFTEN_REFUSED:
        yield f"refused: {name}", REFUSED[name]


def _of_row(row: Row, model: Any) -> Tensor:
    return row(model, pictures(), 2, "blocks.0")


def _single() -> nn.Module:
    return seeded(Words).float()


_CHANGED_BY_THE_CASE = ("after a step", "gathered before", "pulled back later")


def run(every: bool) -> dict[str, Any]:
    """For each case the error that it raised, or its relative error and whether the model is as it was."""
    found: dict[str, Any] = {}
    for name, case in table(every):
        plain, sharded = (made(case.make) for _ in range(2))
        sharded = case.shard(sharded)
        before = state(sharded)
        try:
            actual = case.call(sharded)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
            continue
        untouched = state(sharded) == before or name.endswith(_CHANGED_BY_THE_CASE)
        expected = case.call(plain) if case.expected is None else case.expected(sharded)
        assert expected.abs().max() > 0, f"{name}: a map of zeros tells nothing"
        found[name] = [float((actual - expected).abs().max() / expected.abs().max()), untouched]
    return found


def made(make: Callable[[], nn.Module]) -> nn.Module:
    return make() if make is _single else seeded(make)


def state(model: nn.Module) -> list[Any]:
    """What a call may not change: which tensors there are, their numbers, gradients and hooks."""
    found: list[Any] = []
    for module in model.modules():
        found.append((type(module), {k: list(v) for k, v in vars(module).items() if isinstance(v, dict)}))
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            local: Any = getattr(tensor, "_local_tensor", tensor)
            found.append((id(tensor), type(tensor), tensor.grad, tensor.requires_grad, local.tolist()))
    return found
