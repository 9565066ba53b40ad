"""What a run asks about each batch: a method bound to its model, a target, and what is made of the attributions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import maps
from ..attribution.targets import BuiltTarget, Target, pick_output, read_target
from ..attribution.targets import score as score_of
from ..batch import Rows
from ..model.functional import FunctionalModel, as_functional, functionalize
from .bound_method import BoundMethod
from .description import described
from .own import Own, released
from .seeds import sow

TOP = "top"
_MAPS = ("max_abs", "sum", "abs_sum", "l2", "positive", "negative")
"""Functions of `funcattr.maps` from attributions to maps."""
Targets = list[int | tuple[int, ...] | None]


class Answer(NamedTuple):
    """What a method gives a batch.

    Attributes:
        attributions: By column; a single tensor is "attribution". Each [N, ...]
        targets: The class or index of each example, None where a target is a function.
        scores: The model's output there, or None. [N]
    """

    attributions: dict[str, Tensor]
    targets: Targets
    scores: Tensor | None


class Question:
    """What is asked about each batch.

    Args:
        method: As from `read_method`.
        model: The model, or an `Own`.
        target: As `run` takes it.
        options: Keywords of the method.
        as_map: What is made of attributions, or None.
        score: Whether the model's output at the target is wanted.
        count: How many examples there are.
    """

    def __init__(
        self,
        method: str | Own,
        model: Any,
        target: Any,
        options: Mapping[str, Any],
        as_map: Any,
        score: bool,
        count: int,
    ) -> None:
        self.method, self.score, self.model = BoundMethod(method, model, options), score, released(model)
        self.target = read_run_target(target, count)
        self.as_map = map_function(as_map)
        self.output, self.args, self.kwargs = (released(options.get(name)) for name in ("output", "args", "kwargs"))
        _refuse_spread(self.model)
        self.device = _device_of(self.model)
        self._functional: FunctionalModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_functional": None}  # a copy of the model, which another process makes itself

    def ask(self, x: Any, positions: Sequence[int], own: Targets, seed: int) -> Answer:
        """The attributions of a batch.

        Args:
            x: The inputs. each [N, ...]
            positions: Of the examples in the data.
            own: The examples' own targets.
            seed: Of all that is drawn.
        """
        count = len(positions)
        sow(seed, self.device)
        output = self._output(x) if self.score or self.target == TOP else None
        target, targets = self._targets(output, positions, own)
        scores = None if output is None or not self.score else score_of("run", output, read_target("run", target))
        sow(seed, self.device)  # so that the method's draws do not depend on whether there were others
        found = self.method(x, target, seed)
        columns = {name: self._mapped(part.detach()) for name, part in _columns(found).items()}
        for name, part in columns.items():
            if not part.ndim or len(part) != count:
                raise ValueError(f"run: expected a row for each of {count} examples, got {list(part.shape)} ({name}).")
            if not part.is_floating_point():
                raise TypeError(f"run: expected floating-point attributions, got {part.dtype} ({name}).")
        return Answer(columns, targets, None if scores is None else scores.detach())

    def _output(self, x: Any) -> Tensor:
        if self._functional is None:
            # As methods do: the user's model is not written to.
            self._functional = functionalize(self.model)
        args, kwargs = self.args or (), self.kwargs or {}
        with torch.no_grad():
            value = (
                self._functional(*args, **x, **kwargs) if isinstance(x, dict) else self._functional(x, *args, **kwargs)
            )
        return pick_output("run", value, self.output, forward_only=True)

    def _targets(self, output: Tensor | None, positions: Sequence[int], own: Targets) -> tuple[Target, Targets]:
        """The target as a method takes it, and that of each example as a file has it."""
        if self.target == TOP:
            assert output is not None
            if output.ndim != 2:
                raise ValueError(
                    f"run(target='top'): expected an output [N, classes], got {list(output.shape)}. Say which is meant."
                )
            each: Targets = output.argmax(1).tolist()
        elif self.target is None:
            each = own
        elif isinstance(self.target, list):
            each = [self.target[position] for position in positions]
        elif callable(self.target):
            function: Any = self.target
            return function, [None] * len(positions)
        else:
            each = [self.target] * len(positions)
        if all(target is None for target in each):
            return None, each
        kinds = {len(target) if isinstance(target, tuple) else type(target).__name__ for target in each}
        if len(kinds) > 1:
            raise TypeError(f"run: expected targets of one kind in a batch, got {each}.")
        return each, each  # pyright: ignore[reportReturnType]

    def _mapped(self, part: Tensor) -> Tensor:
        return part if self.as_map is None else self.as_map(part)


def read_run_target(target: Any, count: int) -> Any:
    """The target of a run: "top", None (the example's own), an int, a tuple, a function, or a list of one an example.

    Raises:
        TypeError, ValueError: If it is of another kind, or a list is not as long as the data.
    """
    if target is None or (isinstance(target, str) and target == TOP):
        return target
    if isinstance(target, str):
        raise ValueError(f"run(target={target!r}): expected '{TOP}', a class, an index, or one for each example.")
    if isinstance(target, BuiltTarget):
        for examples in (2, 3):  # one that is for two examples and for three is for any
            target.at("run", examples, Rows(1))
        return target
    value = released(target)
    if callable(value):
        return value
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        value = value.tolist()
    if type(value) is list:
        value = [tuple(each) if isinstance(each, list) else each for each in value]
    read: Any = read_target("run", value)
    if isinstance(read, list) and len(read) != count:
        raise ValueError(f"run(target=...): expected a target for each of {count} examples, got {len(read)}.")
    if isinstance(read, Tensor):
        raise TypeError("run(target=...): expected integers, got floating-point numbers.")
    return read


def described_target(target: Any) -> Any:
    """What a manifest says of a target; of a long list its hash."""
    if isinstance(target, list):
        target = np.asarray(target)
    return described(target, "run(target=...)")


def map_function(as_map: Any) -> Callable[[Tensor], Tensor] | None:
    """What makes maps of attributions: a name of `funcattr.maps`, or an `Own`."""
    if isinstance(as_map, Own):
        return as_map.value
    if as_map is None:
        return None
    if as_map not in _MAPS:
        raise ValueError(f"run(as_map={as_map!r}): expected one of {', '.join(map(repr, _MAPS))}, or an Own.")
    return getattr(maps, as_map)


def _columns(found: Any) -> dict[str, Tensor]:
    """The tensors of a result by the names of their columns."""
    if isinstance(found, Tensor):
        return {"attribution": found}
    if isinstance(found, Mapping) and found and all(isinstance(part, Tensor) for part in found.values()):
        return {f"attribution.{name}": part for name, part in found.items()}
    raise TypeError(f"run: expected a tensor or a mapping of tensors from the method, got {type(found).__name__}.")


def _refuse_spread(model: Any) -> None:
    """Raise for a model whose tensors no process has all of, to describe them and to compute a shard by itself."""
    if isinstance(model, nn.Module | FunctionalModel) and as_functional(model).is_spread:
        raise TypeError(
            "run(model=...): the model's tensors are spread over processes (fully_shard, parallelize_module) or kept "
            "elsewhere (accelerate's offload), so that no process has all of them to describe, and shards of data "
            "cannot go to processes that all have to make the same calls. Give a model that is whole where it runs; "
            "or call the method in a loop of your own, the same in every process."
        )


def _device_of(model: Any) -> torch.device:
    if isinstance(model, nn.Module):
        tensors: Any = model.parameters()
    else:
        tensors = model.params.values() if isinstance(model, FunctionalModel) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
