"""Batch norms in eval mode that run as part of the linear maps before them, as the data flow of a call allows it.

Before its first call the model runs once while somebody watches: which torch function reads the result of which linear
map. A batch norm is folded into a map whose result it alone reads. In later calls the map is run with both in its
weight, the model gets a stand-in for its result, and the batch norm passes on the result for the stand-in. Whatever
else reads the stand-in raises.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from operator import is_
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from .._torch import (
    current_level,
    memory_of,
    no_function_modes,
    pytree,
    saved_hooks,
    unwrapped,
    versions,
    without_dispatch_modes,
    without_torch_function,
)
from ..calls.call import Call
from ..calls.folded import bias_after, scaled_outputs
from ..calls.normalization import EPS, TENSORS, affine, has_constant_statistics
from ..calls.operations import CONVOLUTIONS, OF_FORM, known
from ..calls.written import may_write, written
from ..copies import ATOMS
from ..errors import FuncattrError
from ..torch_state import is_traced
from .sites import SiteMode, leave_module, site, site_modes

Key = tuple[str, int]
"""A linear map of a call: the path of the module that runs it, and its number among the maps that this one runs."""
Both = tuple[Tensor, Tensor]
"""The weight and the bias of a linear map with a batch norm folded in."""

_RANKS = {"linear": 2, **{op: rank + 2 for op, (rank, _) in CONVOLUTIONS.items()}}


class Pair(NamedTuple):
    """A linear map and the batch norm that alone reads its result.

    Attributes:
        map: Names of the map's weight and bias; of one that is computed in the call, or missing, None.
        norm: Names of the batch norm's tensors by argument; of a missing one, None.
        eps: What the batch norm adds to the variance.
        sites: Sites whose values hold the result.
        names: Names of all tensors that the folded ones are made of.
    """

    map: tuple[str | None, str | None]
    norm: tuple[str | None, ...]
    eps: float
    sites: frozenset[str]
    names: frozenset[str]


class Made(NamedTuple):
    """A folded weight and bias, what they were made of, and how often that had been written.

    Attributes:
        both: The two.
        of: The tensors that they were made of.
        versions: How often each had been written.
        aliases: Each in the memory that it had, which `tensor.data = ...` changes without a write.
    """

    both: Both
    of: list[Tensor]
    versions: list[int]
    aliases: list[Tensor]

    @property
    def is_current(self) -> bool:
        """Whether what they were made of is as it was."""
        return versions(self.of) == self.versions and all(map(Tensor.is_set_to, self.of, self.aliases))


class Folds:
    """What is known of a model whose batch norms are folded.

    Attributes:
        own: The model's tensors by name, which nobody else writes.
        hooked: Names of modules with forward hooks, which see what goes in and comes out of them.
        pairs: What is folded; None before a call in which something could be.
        both: The folded weights and biases that were made so far.
    """

    def __init__(self, own: Mapping[str, Tensor], hooked: frozenset[str]) -> None:
        self.own, self.hooked = own, hooked
        self.pairs: dict[Key, Pair] | None = None
        self.both: dict[tuple[str, int, str], Made] = {}

    def begin(
        self,
        run: Callable[[dict[str, Tensor], Any, Any], Any],
        tensors: dict[str, Tensor],
        bound: Mapping[str, Tensor],
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> "Folding | None":
        """The mode for a call; None where it goes unfolded.

        Args:
            run: Runs the model with tensors and inputs.
            tensors: Those that the call computes with, by name.
            bound: Those among them that are not the model's own.
            inputs, kwargs: The call's.

        Raises:
            ValueError: If there is nothing to fold.
        """
        if self.pairs is None:
            if any(torch.is_autocast_enabled(device) for device in {t.device.type for t in tensors.values()}):
                return None  # nothing is folded under autocast, which says nothing of other calls
            watch = Watch(tensors, self.hooked)
            try:
                pairs = watch.watched(run, inputs, kwargs)
            except Exception:  # the call itself will raise it, where errors of the model are explained
                return None
            if not pairs:
                raise ValueError(f"functionalize(fold=True): {watch.nothing()}")
            self.pairs = pairs
        return Folding(self, self.pairs, tensors, bound)

    def made(self, key: Key, pair: Pair, op: str, groups: int, transposed: bool) -> Both | None:
        """The folded weight and bias of the model's own tensors, made once; None where they cannot be kept."""
        made = self.both.get((*key, op))
        if made is not None:
            with without_torch_function():
                if made.is_current:
                    return made.both
        if current_level() is None and not is_traced():
            with without_torch_function(), torch.inference_mode(False), torch.no_grad():
                weight, bias, *norm = [None if name is None else self.own[name] for name in (*pair.map, *pair.norm)]
                assert weight is not None
                both, own = _folded(weight, bias, norm, pair.eps, groups, transposed), [self.own[n] for n in pair.names]
                self.both[*key, op] = Made(both, own, versions(own), [t.detach() for t in own])
                return both
        return None


def _folded(weight: Tensor, bias: Tensor | None, norm: list[Any], eps: float, groups: int, transposed: bool) -> Both:
    mean, variance, *affine_part = norm
    scale, shift = affine(mean, variance, affine_part[0], affine_part[1], eps)
    return scaled_outputs(weight, scale, groups, transposed), bias_after(bias, scale, shift)


# --- which pairs there are --------------------------------------------------------------------------------------------


class _Result:
    """The result of a linear map, and who reads it."""

    def __init__(self, tensor: Tensor, key: Key, names: tuple[str | None, str | None]) -> None:
        self.tensor, self.key, self.names = ref(tensor), key, names
        self.readers = 0
        self.norm: tuple[tuple[str | None, ...], float] | None = None
        self.sites: set[str] = set()


class Watch(SiteMode):
    """Notes who reads the results of linear maps.

    Args:
        tensors: The tensors that a call computes with, by name.
        hooked: Names of modules with forward hooks.
    """

    def __init__(self, tensors: Mapping[str, Tensor], hooked: frozenset[str]) -> None:
        super().__init__()
        self.asks_inputs = True
        self._tensors = {name: t.detach() for name, t in tensors.items()}
        self._hooked = hooked
        self._names = {id(t): name for name, t in self._tensors.items()}
        self._constants = {id(t): t for t in self._tensors.values()}
        self._results: dict[int, _Result] = {}
        self._done: list[_Result] = []
        self._numbers: dict[str, int] = {}
        self._touched: set[int | None] = set()
        self._norms = self._in_training = 0

    def watched(
        self, run: Callable[[dict[str, Tensor], Any, Any], Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[Key, Pair]:
        """What can be folded, as one call of the model shows."""
        inputs, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (inputs, kwargs))
        seeds = nullcontext() if is_traced() else torch.random.fork_rng()
        with no_function_modes(), torch.no_grad(), seeds, self:
            output = run(self._tensors, inputs, kwargs)
        for tensor in _tensors_in(output):
            self._read(tensor)
        del output
        # A result that lives on was put somewhere, where it may be looked at later.
        alone = [r for r in self._done if r.readers == 1 and r.norm is not None and r.tensor() is None]
        return {r.key: pair for r in alone if (pair := self._pair(r)) is not None}

    def _pair(self, result: _Result) -> Pair | None:
        assert result.norm is not None
        norm, eps = result.norm
        names = frozenset(name for name in (*result.names, *norm) if name is not None)
        pair = Pair(result.names, norm, eps, frozenset(result.sites), names)
        touched = any(memory_of(self._tensors[name]) in self._touched for name in pair.names)
        seen = {name.partition("@")[0] for name in result.sites}
        return None if touched or seen & self._hooked else pair

    def nothing(self) -> str:
        """Why there is nothing to fold."""
        if not self._norms:
            return "the model calls no batch norm, so there is nothing to fold. Leave it out."
        if self._in_training:
            return (
                f"{self._in_training} of {self._norms} batch norms are in training mode, and no other one can be "
                "folded. Call model.eval() before."
            )
        return (
            f"none of the {self._norms} batch norms is the only reader of the result of a linear map, so there is "
            "nothing to fold. Leave it out."
        )

    def wants(self, name: str) -> bool:
        return True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is leave_module or func is site:
            for tensor in _tensors_in(args[0]):
                result = self._result(tensor)
                if result is not None:
                    result.sites.add(args[1])
        return super().__torch_function__(func, types, args, kwargs)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        told, given = known(func), list(_tensors_in((args, kwargs)))
        call = Call(func, told.operation, args, kwargs, (), self.path)
        if told.name not in OF_FORM:
            for tensor in given:
                self._read(tensor)
        if call.op == "batch_norm":
            self._meet_norm(call)
        is_constant = all(id(t) in self._constants for t in given)
        if may_write(func) or "out" in kwargs:
            self._touch(func, args, kwargs)
        out = func(*args, **kwargs)
        if call.op in _RANKS:
            self._meet_map(call, out)
        if is_constant:
            self._constants |= {id(t): t for t in _tensors_in(out)}
        return out

    def _result(self, tensor: Tensor) -> _Result | None:
        found = self._results.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None

    def _read(self, tensor: Tensor) -> None:
        result = self._result(tensor)
        if result is not None:
            result.readers += 1

    def _touch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        memories = {memory_of(t) for t in written(func, args, kwargs)}
        self._touched |= memories
        self._constants = {i: t for i, t in self._constants.items() if memory_of(t) not in memories}

    def _meet_map(self, call: Call, out: Any) -> None:
        number = self._numbers[self.path] = self._numbers.get(self.path, -1) + 1
        weight, bias = call.argument("weight"), call.argument("bias")
        factors = [t for t in (weight, bias) if t is not None]
        if not isinstance(out, Tensor) or out.ndim != _RANKS[call.op] or not out.is_floating_point():
            return
        if all(isinstance(t, Tensor) and t.dtype == out.dtype and id(t) in self._constants for t in factors):
            names = self._names.get(id(weight)), self._names.get(id(bias))
            result = self._results[id(out)] = _Result(out, (self.path, number), names)
            self._done.append(result)

    def _meet_norm(self, call: Call) -> None:
        self._norms += 1
        self._in_training += bool(call.argument("training", False)) and call.argument("running_mean") is not None
        x = call.argument("input")
        result = self._result(x)
        if result is None or not has_constant_statistics(call):
            return
        given = [call.argument(name) for name in TENSORS]
        if all(t is None or (id(t) in self._names and t.dtype == x.dtype) for t in given):
            names = tuple(None if t is None else self._names[id(t)] for t in given)
            result.norm = names, call.argument("eps", EPS)


# --- a call with the pairs folded -------------------------------------------------------------------------------------


class _Handed:
    """A stand-in, and the result that it stands for; None once the batch norm has passed it on."""

    __slots__ = ("has_grad", "key", "norm", "pair", "result", "stand_in")

    def __init__(self, stand_in: Tensor, result: Tensor, key: Key, pair: Pair, norm: list[Tensor | None]) -> None:
        self.stand_in, self.key, self.pair, self.norm = stand_in, key, pair, norm
        self.result: Tensor | None = result
        self.has_grad = torch.is_grad_enabled()


class ReadError(FuncattrError):
    """The result of a linear map with a batch norm folded in is read by something else than the batch norm."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"functionalize(fold=True): on this input the model reads the result of the linear map in {path!r} in "
            "another way than by the batch norm that is folded into it, which at its first call it did not. "
            "Leave out fold=True."
        )


class Folding:
    """Runs linear maps with their batch norms folded in, where nobody asks for the value between them.

    Attributes:
        touched: Memory of the call's tensors that it has written.
    """

    def __init__(
        self, folds: Folds, pairs: Mapping[Key, Pair], tensors: Mapping[str, Tensor], bound: Mapping[str, Tensor]
    ) -> None:
        modes = site_modes()
        asking = [mode for mode in modes if mode.asked]
        asked = any if asking else lambda _: False
        alike = all(mode.folds_alike for mode in modes)
        self._folds, self._tensors, self._bound = folds, tensors, bound
        self._pairs = {
            key: pair
            for key, pair in pairs.items()
            if alike and not asked(mode.wants(name) for mode in asking for name in pair.sites)
        }
        self._numbers: dict[str, int] = {}
        self._handed: dict[int, _Handed] = {}
        self._nothing: Tensor | None = None
        # A stand-in is no operation of the model's, which a mode that traces has to see all the same.
        self._unseen = nullcontext if is_traced() else without_dispatch_modes
        self.touched: set[int | None] = set()
        self._level, self._saved_hooks = current_level(), saved_hooks()

    def __call__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], mode: SiteMode) -> Any:
        """Run a torch function by way of a mode."""
        told = known(func)
        if self._handed:
            handed = self._met((*args, *kwargs.values()) if kwargs else args)
            if handed is not None and told.name not in OF_FORM:
                return self._passed_on(handed, Call(func, told.operation, args, kwargs, (), mode.path))
        if told.operation.name in _RANKS:
            return self._run_map(func, Call(func, told.operation, args, kwargs, (), mode.path), args, kwargs, mode)
        out = mode.call(func, args, kwargs)
        if told.name == "__set__":  # `weight.data = ...`: the tensor has other memory now
            with without_torch_function():
                self.touched.add(memory_of(args[0]))
        return out

    def finished(self, output: Any) -> Any:
        """The output of the model, in which nothing may stand for anything."""
        handed = self._met(tuple(pytree.tree_leaves(output))) if self._handed else None
        if handed is not None:
            raise ReadError(handed.key[0])
        return output

    def _met(self, values: tuple[Any, ...]) -> _Handed | None:
        is_inside = self._level != current_level()  # of a transform of the model's own
        alone = self._handed.keys().isdisjoint(map(id, values))
        if alone and not is_inside and not any(map(_may_hold, map(type, values))):
            return None  # nearly always
        for value in values:
            if type(value) in ATOMS:
                continue
            found = self._handed.get(id(value))
            if found is None:
                if isinstance(value, dict):
                    found = self._met(tuple(value.values()))
                elif isinstance(value, tuple | list):
                    found = None if ATOMS.issuperset(map(type, value)) else self._met(tuple(value))
                elif is_inside and isinstance(value, Tensor):
                    found = self._met(tuple(unwrapped(value)))
            if found is not None:
                return found
        return None

    def _run_map(
        self, func: Callable[..., Any], call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], mode: SiteMode
    ) -> Any:
        number = self._numbers[call.path] = self._numbers.get(call.path, -1) + 1
        key = call.path, number
        # What is checkpointed runs again in the reverse pass, where nobody folds.
        pair = self._pairs.get(key) if saved_hooks() == self._saved_hooks else None
        norm = [] if pair is None else self._named(pair.norm)
        both = None if pair is None else self._both(key, pair, norm, call)
        if pair is None or both is None:
            return mode.call(func, args, kwargs)
        if kwargs:
            out = mode.call(func, (), {**call.named(), "weight": both[0], "bias": both[1]})
        else:
            out = mode.call(func, (args[0], *both, *args[3:]), kwargs)
        with without_torch_function(), self._unseen():
            if self._nothing is None or (self._nothing.dtype, self._nothing.device) != (out.dtype, out.device):
                self._nothing = torch.full((), float("nan"), dtype=out.dtype, device=out.device)
            stand_in = self._nothing.expand(out.shape)
        self._handed[id(stand_in)] = _Handed(stand_in, out, key, pair, norm)
        return stand_in

    def _both(self, key: Key, pair: Pair, norm: list[Tensor | None], call: Call) -> Both | None:
        """The folded weight and bias for a call of a map, None where it is not as it was when it was watched."""
        x, weight, bias = call.argument("input"), call.argument("weight"), call.argument("bias")
        factors = [t for t in (weight, bias, *norm) if t is not None]
        with without_torch_function():
            if torch.is_autocast_enabled(weight.device.type) or x.ndim != _RANKS[call.op]:
                return None
            if {t.dtype for t in factors} != {x.dtype} or self._is_touched(factors):
                return None
        transposed, groups = "transpose" in call.op, call.argument("groups", 1)
        own = self._named(pair.map)
        is_own = own[0] is not None and weight is own[0] and bias is own[1]
        both = None
        if is_own and (not self._bound or pair.names.isdisjoint(self._bound)):
            both = self._folds.made(key, pair, call.op, groups, transposed)
        return _folded(weight, bias, norm, pair.eps, groups, transposed) if both is None else both

    def _named(self, names: tuple[str | None, ...]) -> list[Tensor | None]:
        return [None if name is None else self._tensors[name] for name in names]

    def _is_touched(self, tensors: list[Tensor]) -> bool:
        if not self.touched:
            return False
        with without_torch_function():
            return any(memory_of(t) in self.touched for t in tensors)

    def _passed_on(self, handed: _Handed, call: Call) -> Tensor:
        pair, norm, result, given = handed.pair, handed.norm, handed.result, call.named()
        is_norm = call.op == "batch_norm" and result is not None and given.get("input") is handed.stand_in
        if not is_norm or torch.is_grad_enabled() != handed.has_grad or given.get("training", False):
            raise ReadError(handed.key[0])
        is_same = all(map(is_, map(given.get, TENSORS), norm))
        if not is_same or given.get("eps", EPS) != pair.eps or self._is_touched([t for t in norm if t is not None]):
            raise ReadError(handed.key[0])
        handed.result = None
        assert result is not None
        return result


@cache
def _may_hold(kind: type) -> bool:
    """Whether values of a class may hold others that a torch function reads."""
    return issubclass(kind, tuple | list | dict)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        yield from (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
