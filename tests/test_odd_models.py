"""Models that nobody had in mind: each gives the right gradient, or an error of ours that says what and where."""

import contextlib
import copy
import functools
import math
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import FuncattrError
from funcattr.rules import GRADIENT

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantiz.*"),
    pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning"),  # reentrant checkpointing
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
WIDTH, CLASSES = 6, 3


class Base(nn.Module):
    """Two layers, and what a subclass does between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def between(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def between(step: Callable[[Any, Tensor], Tensor], **attributes: Any) -> Callable[[], nn.Module]:
    """A kind of model, made of a step between two layers and of attributes that it may use."""

    def make() -> nn.Module:
        model: Any = Base()
        for name, value in attributes.items():
            setattr(model, name, value() if callable(value) else value)
        model.between = types.MethodType(step, model)
        return model

    return make


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * cotangents[0]


class OldSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * cotangents[0]


class Tagged(Tensor):
    pass


@torch.library.custom_op("funcattr_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return 2 * x


@torch.library.custom_op("funcattr_tests::undone", mutates_args=())
def undone(x: Tensor) -> Tensor:
    return 2 * x


doubled.register_autograd(lambda ctx, g: 2 * g)


def _in_a_thread(m: Any, h: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.tanh, h).result() + h


def _in_a_bare_thread(m: Any, h: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.sin(h)))
    thread.start()
    thread.join()
    return found[0]


def _by_out(m: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        mask = torch.empty_like(h)
        torch.sign(h, out=mask)
    return h * mask


def _in_place(m: Any, h: Tensor) -> Tensor:
    y = torch.sigmoid(h)
    y[..., :2] = y[..., :2] * 2 - 0.5
    y += 1
    return y.mul_(2)


def _not_in_place(m: Any, h: Tensor) -> Tensor:
    s = torch.sigmoid(h)
    return 2 * (1 + torch.cat([s[:, :2] * 2 - 0.5, s[:, 2:]], 1))


def _through_a_view(m: Any, h: Tensor) -> Tensor:
    h = h * 1
    torch.flatten(input=h).mul_(2)
    return h


def _packed(m: Any, h: Tensor) -> Tensor:
    packed = pack_padded_sequence(h.unsqueeze(1).expand(-1, 2, -1), torch.tensor([2] * len(h)), batch_first=True)
    return pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0][:, -1]


def _cond(m: Any, h: Tensor) -> Tensor:
    return torch.cond(h.sum() > 0, lambda h: h.sin(), lambda h: h.cos(), (h,))


def _grad_inside(m: Any, h: Tensor) -> Tensor:
    return torch.func.grad(lambda h: (h**3).sum())(h)


def _autograd_inside(m: Any, h: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = h.detach().requires_grad_()
        return h * torch.autograd.grad((leaf**3).sum(), leaf)[0]


def _vmapped(m: Any, h: Tensor) -> Tensor:
    return torch.vmap(torch.tanh)(h)


def _sparse(m: Any, h: Tensor) -> Tensor:
    return (torch.eye(WIDTH, dtype=h.dtype).to_sparse_csr() @ h.T).T


def _sparse_coo(m: Any, h: Tensor) -> Tensor:
    return torch.sparse.mm(torch.eye(WIDTH, dtype=h.dtype).to_sparse(), h.T).T


def _foreach(m: Any, h: Tensor) -> Tensor:
    return torch._foreach_mul([h, h], 2.0)[1]


def _requires_grad(m: Any, h: Tensor) -> Tensor:
    h.requires_grad_()
    return h.tanh()


def _by_numpy(m: Any, h: Tensor) -> Tensor:
    return h * torch.from_numpy(h.detach().numpy().copy())


def _tensor_of_it(m: Any, h: Tensor) -> Tensor:
    return h * float(h.detach().sum())


def _caught(m: Any, h: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        return h @ torch.ones(WIDTH + 1, 2, dtype=h.dtype)
    return h.exp()


def _catching(m: Any, h: Tensor) -> Tensor:
    try:
        return Squared.apply(h)
    except Exception:
        return h


def _autocast(m: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        return h.tanh()


def _complex(m: Any, h: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.fft(h) * torch.tensor(1j)).abs()


def _recursion(m: Any, h: Tensor) -> Tensor:
    return h if h.detach().abs().max() < 1e-3 else _recursion(m, h / 10) + h


def _data_dependent(m: Any, h: Tensor) -> Tensor:
    return h.relu() if h.sum() > 0 else -h


def _hooked(m: Any, h: Tensor) -> Tensor:
    h = h * 1
    h.register_hook(lambda g: 3 * g)
    return h


def _detached(m: Any, h: Tensor) -> Tensor:
    return h.detach() * h


def _no_grad(m: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(h)
    return gate * h


def _inference(m: Any, h: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = torch.sigmoid(h.detach()) * 1
    return gate.clone() * h


def _deepcopied(m: Any, h: Tensor) -> Tensor:
    return copy.deepcopy(m.a)(h)


def _new_module(m: Any, h: Tensor) -> Tensor:
    return nn.Softplus()(h)


def _parameter_inside(m: Any, h: Tensor) -> Tensor:
    return h * nn.Parameter(torch.full((), 2.0, dtype=h.dtype))


def _lambda_table(m: Any, h: Tensor) -> Tensor:
    return {"f": lambda h: m.a(h)}["f"](h)


def _generator(m: Any, h: Tensor) -> Tensor:
    for layer in (layer for layer in (m.a, m.a)):
        h = layer(h).tanh()
    return h


def _split(m: Any, h: Tensor) -> Tensor:
    one, two = h.chunk(2, -1)
    one = one + 1
    two.mul_(3)
    return torch.cat([one, two], -1)


def _where(m: Any, h: Tensor) -> Tensor:
    return torch.where(h > 0, h, torch.zeros((), dtype=h.dtype))


def _einsum(m: Any, h: Tensor) -> Tensor:
    return torch.einsum("bi,ij,bj->bi", h, m.b.weight.T @ m.b.weight, h)


def _einsum_of_one(m: Any, h: Tensor) -> Tensor:
    return h * torch.einsum("bi->b", h)[:, None]


def _subclass(m: Any, h: Tensor) -> Tensor:
    return (h * 1).as_subclass(Tensor) * h


def _own_subclass(m: Any, h: Tensor) -> Tensor:
    return ((h * 1).as_subclass(Tagged) * 2).as_subclass(Tensor)


def _norms(m: Any, h: Tensor) -> Tensor:
    return torch.layer_norm(torch.group_norm(h, 2), (WIDTH,))


def _batch_norm(m: Any, h: Tensor) -> Tensor:
    mean, var = torch.zeros(WIDTH, dtype=h.dtype), torch.ones(WIDTH, dtype=h.dtype)
    return torch.batch_norm(h, None, None, mean, var, False, 0.1, 1e-5, False)


def _aten(m: Any, h: Tensor) -> Tensor:
    return torch.ops.aten.add.Tensor(torch.ops.aten.tanh.default(h), h, alpha=2)


def _stacked(m: Any, h: Tensor) -> Tensor:
    return torch.stack([h, h.sin(), h.cos()]).logsumexp(0)


def _interleaved(m: Any, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, ::2] = h[:, ::2].tanh()
    out[:, 1::2] = h[:, 1::2] ** 2
    return out


def _scattered(m: Any, h: Tensor) -> Tensor:
    return torch.zeros_like(h).index_add_(1, torch.tensor([0, 0, 1, 1, 2, 2]), h)


def _triangular(m: Any, h: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(m.triangle, h.T, upper=True).T


def _cumulative(m: Any, h: Tensor) -> Tensor:
    return h.cumsum(-1).sort(-1)[0].flip(-1)


def _attention(m: Any, h: Tensor) -> Tensor:
    q = h.reshape(-1, 1, 2, 3)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True).reshape(h.shape)


def _checkpointed(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, h: checkpoint(lambda h: torch.tanh(m.a(h)), h, use_reentrant=reentrant)


def linear_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(6, 3))


class Odd(NamedTuple):
    """An odd model.

    Attributes:
        make: Makes it.
        refused: Words of the error that it may get, None where it has to work.
        clean: The step between its layers for autograd, where torch cannot differentiate the odd one.
    """

    make: Callable[[], nn.Module]
    refused: str | None = None
    clean: Callable[[Any, Tensor], Tensor] | None = None


SEE = "cannot see through"
MODELS: dict[str, Odd] = {
    "new Function": Odd(between(lambda m, h: Squared.apply(h)), SEE),
    "old Function": Odd(between(lambda m, h: OldSquared.apply(h)), SEE),
    "custom op": Odd(between(lambda m, h: doubled(h)), "."),
    "custom op without a derivative": Odd(between(lambda m, h: undone(h) + h), "."),
    "thread pool": Odd(between(_in_a_thread), "."),
    "bare thread": Odd(between(_in_a_bare_thread), "."),
    "cond": Odd(between(_cond), SEE),
    "grad inside": Odd(between(_grad_inside), SEE),
    "autograd inside": Odd(between(_autograd_inside), SEE),
    "vmap inside": Odd(between(_vmapped), SEE),
    "log_softmax and exp": Odd(between(lambda m, h: h.log_softmax(-1).exp())),
    "triu": Odd(between(lambda m, h: h.unsqueeze(1).mul(h.unsqueeze(2)).triu().sum(1))),
    "tensor hook": Odd(between(_hooked), "."),
    "numpy": Odd(between(_by_numpy), "."),
    "sparse csr": Odd(between(_sparse), "."),
    "sparse coo": Odd(between(_sparse_coo), "."),
    "foreach": Odd(between(_foreach), "."),
    "packed": Odd(between(_packed, rnn=lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)), "."),
    "checkpoint": Odd(between(_checkpointed(False)), "."),
    "reentrant checkpoint": Odd(between(_checkpointed(True)), ".", lambda m, h: m.a(h).tanh()),
    "a refusal that is caught": Odd(between(_catching), "."),
    "own subclass": Odd(between(_own_subclass), "."),
    "parameter inside": Odd(between(_parameter_inside), None),
    "out=": Odd(between(_by_out)),
    "in place": Odd(
        between(_in_place),
        None,
        _not_in_place,
    ),
    "through a view": Odd(between(_through_a_view), "."),
    "requires_grad": Odd(between(_requires_grad)),
    "a number of it": Odd(between(_tensor_of_it)),
    "caught error": Odd(between(_caught)),
    "autocast off": Odd(between(_autocast)),
    "complex": Odd(between(_complex)),
    "recursion": Odd(between(_recursion)),
    "data dependent": Odd(between(_data_dependent)),
    "detached": Odd(between(_detached)),
    "no_grad": Odd(between(_no_grad)),
    "inference": Odd(between(_inference), "."),
    "deep copy of a layer": Odd(between(_deepcopied)),
    "module made inside": Odd(between(_new_module)),
    "table of lambdas": Odd(between(_lambda_table)),
    "generator of layers": Odd(between(_generator)),
    "chunks written": Odd(between(_split), ".", lambda m, h: torch.cat([h[:, :3] + 1, 3 * h[:, 3:]], 1)),
    "where": Odd(between(_where)),
    "einsum of three": Odd(between(_einsum)),
    "einsum of one": Odd(between(_einsum_of_one)),
    "as_subclass": Odd(between(_subclass)),
    "torch's norms": Odd(between(_norms)),
    "torch's batch norm": Odd(between(_batch_norm)),
    "aten": Odd(between(_aten)),
    "stack": Odd(between(_stacked)),
    "strided writes": Odd(between(_interleaved)),
    "index_add_": Odd(between(_scattered)),
    "triangular solve": Odd(
        between(_triangular, triangle=lambda: torch.eye(WIDTH, dtype=torch.float64) + torch.ones(WIDTH, WIDTH).triu(1))
    ),
    "cumulative": Odd(between(_cumulative)),
    "causal attention": Odd(between(_attention)),
    "encoder": Odd(linear_encoder),
    "partial": Odd(between(lambda m, h: functools.partial(torch.mul, other=2)(h))),
    "log of sums": Odd(between(lambda m, h: torch.log1p(h.exp()) / math.e)),
    "unfold": Odd(between(lambda m, h: h.unfold(1, 3, 1).sum(-1).repeat(1, 2)[:, :WIDTH])),
    "max by dim": Odd(between(lambda m, h: h * h.max(1, keepdim=True)[0])),
    "masked fill": Odd(between(lambda m, h: h.masked_fill(h < 0, -1.0))),
    "clamp by a tensor": Odd(between(lambda m, h: h.clamp(min=torch.zeros((), dtype=h.dtype)))),
    "polar": Odd(between(lambda m, h: torch.view_as_real(torch.polar(h.abs(), h))[..., 0])),
    "bilinear": Odd(between(lambda m, h: F.bilinear(h, h, m.cube), cube=lambda: torch.randn(6, 6, 6).double())),
    "embedding of a bin": Odd(between(lambda m, h: h + F.embedding((h > 0).long()[:, 0], m.a.weight))),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name].make().double().eval()


def by_autograd(name: str, x: Tensor) -> Tensor:
    model: Any = made(name)
    clean = MODELS[name].clean
    if clean is not None:
        model.between = types.MethodType(clean, model)
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]


def test_there_are_sixty() -> None:
    assert len(MODELS) >= 60


def answer(run: Callable[[], Tensor]) -> Tensor | FuncattrError:
    """What a call gives, or the error of ours that it raises; any other error is not caught."""
    try:
        return run()
    except FuncattrError as error:
        return error


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_right_or_refused(name: str) -> None:
    model, x = made(name), torch.randn(4, WIDTH).double()
    found = answer(lambda: funcattr.gradient(model, x, 1))
    if isinstance(found, Tensor):
        torch.testing.assert_close(found, by_autograd(name, x))
    else:
        assert MODELS[name].refused is not None, found


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", MODELS)
def test_the_record_is_right_or_refused(name: str) -> None:
    model, x = made(name), torch.randn(4, WIDTH).double()
    # The rules change nothing, so that the recorder does the work.
    found = answer(lambda: funcattr.attribute(model, x, 1, rules={"softsign": GRADIENT}).cotangent)
    if isinstance(found, Tensor):
        torch.testing.assert_close(found, by_autograd(name, x))
    else:
        words = MODELS[name].refused
        assert words is not None and words in str(found) and "in the module" in str(found), found
