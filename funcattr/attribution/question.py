"""The question that a method is asked: a model, its inputs, and the number of the output that is explained."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..batch import Dim, along, back, batch_of, broadcasts, each_repeated, has_dim, inputs_of, moved
from ..copies import copied
from ..errors import warn
from ..model.access import values_at
from ..model.functional import FunctionalModel, Site, as_functional
from .built_targets import of_outputs
from .example_dims import ExampleDims, Layout, layout_of, moved_inputs, require_rows
from .inputs import as_dict, read_inputs
from .targets import Target, pick_output, read_target, repeated_target, score

T = TypeVar("T")
Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...], Mapping[str, Tensor])
Model = Callable[..., Any] | nn.Module | FunctionalModel
Layer = Site


class Question(NamedTuple):
    """A model, its inputs, and which number of its output is explained.

    Attributes:
        call: Name of the method, the first words of errors.
        model: The model, as a function.
        x: Input [N, ...], or a tuple or dict of inputs.
        target: What is explained, as the user gave it.
        layer: Name of the site that is attributed to; None for the inputs, or where there are several.
        output: Key, index or attribute of the explained tensor among several outputs.
        args, kwargs: More inputs of the model.
        layout: Where the user's tensors have their examples, if not in front; here they are.
        forward_only: Whether nothing is differentiated, so that outputs may be integers or booleans.
        layers: Names of the sites that are attributed to at once; none where there is one or it is the inputs.
    """

    call: str
    model: FunctionalModel
    x: Any
    target: Target
    layer: str | None
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    layout: Layout | None = None
    forward_only: bool = False
    layers: tuple[str, ...] = ()

    @property
    def begins(self) -> tuple[str, ...]:
        """The sites where the reverse pass ends; none: the inputs."""
        return self.layers if self.layer is None else (self.layer,)

    def at_each(self, result: Callable[..., T], *values: Any) -> Any:
        """`result(question of one site, its values)`; with several sites, by site, of values by site."""
        if not self.layers:
            return result(self, *values)
        one = self._replace(layers=())
        return {site: result(one._replace(layer=site), *(v[site] for v in values)) for site in self.layers}

    @property
    def examples(self) -> int:
        """N, the number of examples."""
        return batch_of(self.call, self.x)

    @property
    def example_size(self) -> int:
        """The number of values of one example of the inputs."""
        return sum(math.prod(leaf.shape[1:]) for leaf in pytree.tree_leaves(self.x))

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return pytree.tree_leaves(self.x)[0].device

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs of the model's call."""
        return call_arguments(*self.given)

    @property
    def given(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """x, args and kwargs as the user's model takes them."""
        given = self.x, self.args, self.kwargs
        return given if self.layout is None else self.layout.given(*given)

    def of_copies(self, x: Any) -> "Question":
        """The same question about `x`, copies of the examples (neighbours): the rest is repeated along. [N * S, ...]"""
        examples = self.examples
        times = batch_of(self.call, x) // examples
        target = repeated_target(self.call, self.target, examples, times)
        copies = self._replace(x=x) if times == 1 else self.along(x, lambda value: each_repeated(value, times))
        return copies._replace(target=target)

    def along(self, x: Any, change: Callable[[Tensor], Tensor]) -> "Question":
        """The same question about other rows `x`; of the rest, what has a row for each example is changed along."""
        if self.layout is None:
            args, kwargs = along((self.args, self.kwargs), self.examples, change)
        else:
            args = self.layout.along(self.args, self.layout.args, self.examples, change)
            kwargs = self.layout.along(self.kwargs, self.layout.kwargs, self.examples, change)
        return self._replace(x=x, args=args, kwargs=kwargs)

    def explained(self, model: FunctionalModel, x: Any, by_rows: bool = True) -> Tensor:
        """The explained tensor of the output of a call, with the other inputs of the question. [N, ...]

        Raises:
            ValueError: If it has not a row for each example; not without `by_rows`.
        """

        def run(x: Any, args: Any, kwargs: Any) -> Tensor:
            positional, keyword = call_arguments(x, args, kwargs)
            return self.picked(model(*positional, **keyword))

        args, kwargs = copied((self.args, self.kwargs))
        output = run(x, args, kwargs) if self.layout is None else self.layout.run(self.call, run, x, args, kwargs)
        if by_rows:
            examples = batch_of(self.call, x)
            output = output.reshape(1) if examples == 1 and output.ndim == 0 else output
            require_rows(self.call, output, examples, self.layout)
        return output

    def picked(self, value: Any) -> Tensor:
        """The explained tensor of what the model returned."""
        if isinstance(self.target, of_outputs):
            return self.target.joined(self.call, value)
        return pick_output(self.call, value, self.output, self.forward_only)

    def laid(self, values: Any) -> Any:
        """An option that is a number or structured as x, and broadcasts to it, with its examples in front."""
        values = as_dict(values)
        if self.layout is None or not isinstance(values, Tensor | tuple | dict):
            return values
        like = pytree.tree_map(back, self.x, self.layout.x)
        values = pytree.tree_map(lambda _: values, like) if isinstance(values, Tensor) else values
        if pytree.tree_structure(values) != pytree.tree_structure(like):
            return values  # which the method itself will refuse

        def leaf(value: Any, like: Tensor, dim: Any) -> Any:
            fits = isinstance(value, Tensor) and broadcasts(value.shape, like.shape)
            return moved(value.expand(like.shape), dim) if fits else value

        return pytree.tree_map(leaf, values, like, self.layout.x)

    def as_given(self, result: Any) -> Any:
        """A result structured and shaped as the root, with its examples where the user's tensors have them."""
        if self.layout is None or result is None:
            return result
        if self.begins:
            return pytree.tree_map(self.layer_as_given, result)
        return pytree.tree_map(back, result, self.layout.x)

    @property
    def layer_dim(self) -> Dim:
        """The dimension that holds examples at the layer, as the model has its value."""
        return 0 if self.layout is None else self.layout.layer

    def output_as_given(self, output: Tensor) -> Tensor:
        """The explained output, with its examples where the model has them."""
        return output if self.layout is None else back(output, self.layout.output)

    def layer_as_given(self, value: Tensor) -> Tensor:
        """A value at the layer as the model has it."""
        return back(value, self.layer_dim)

    def at_layer(self, value: Tensor) -> Tensor:
        """A value at the layer, as the model has it, with its examples in front."""
        dim = self.layer_dim
        if not has_dim(value, dim):
            raise ValueError(
                f"{self.call}(layer={self.layer!r}, example_dims=...): the site's value has shape {list(value.shape)}, "
                f"no dimension {dim} that could hold examples."
            )
        return moved(value, dim)

    def output_in_front(self, output: Tensor) -> Tensor:
        """The explained output, as the model has it, with its examples in front."""
        return output if self.layout is None else moved(output, self.layout.output)

    def outputs(self) -> Tensor:
        """The explained tensor of the model's output, without a record. [N, ...]"""
        # Copies, so that a model which writes into its input never reaches the user's tensor.
        return self.explained(self.model, copied(self.x))

    def scores(self) -> Tensor:
        """The number that is explained, for each example. [N]"""
        return score(self.call, self.outputs(), self.target)

    def root(self) -> Any:
        """What is attributed to: the inputs, or the value at the layer, by site with several. Each [N, ...]

        Raises:
            TypeError: If a layer's value is no floating-point tensor.
        """
        if not self.begins:
            return self.x
        values = values_at(
            f"{self.call}(layer={(self.layer or self.layers)!r})", self.model, self.begins, self.arguments
        )
        return self.at_each(Question._checked, values if self.layers else values[self.begins[0]])

    def _checked(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{self.call}(layer={self.layer!r}): expected a floating-point tensor as the site's value.")
        value = self.at_layer(value)
        self.require_rows(value)
        return value

    def require_rows(self, value: Tensor) -> None:
        """Raise unless a value at the layer, with its examples in front, has a row for each of them."""
        if value.shape[:1] != (self.examples,):
            raise ValueError(
                f"{self.call}(layer={self.layer!r}, example_dims=...): expected a site whose value has a row for each "
                f"of {self.examples} examples, got shape {list(value.shape)}. Say which dimension holds them: "
                f'example_dims={{"layer": 1}}, or explain the examples one by one.'
            )


def ask(
    call: str,
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer | Sequence[Layer] | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
    forward_only: bool = False,
    several: bool = False,
) -> Question:
    """The question of a method's arguments, checked, in the forms that the package reads.

    A mapping x becomes a dict. Beside floating-point inputs its integer and boolean tensors are constants of the call:
    they go to the model by keyword, repeated with the examples, and no result has a part for them (see `read_inputs`).
    The target is read as `read_target` says. A list of sites is for methods that say `several`. In
    compiled code tensors are copies of their own (see `own`).

    Raises:
        TypeError: If the model is not callable, an input is no tensor or given twice, by x and by kwargs, or there are
            several sites that are not meant.
        ValueError: If an input has no batch, or is on another device than the model.
    """
    fm = as_functional(model)
    layers = () if layer is None else fm.site_names(call, layer) or ()
    if layers and not several:
        raise TypeError(f"{call}(layer={layer!r}): expected one site. Call it for each of several.")
    site = None if layer is None or layers else fm.site_name(call, layer)
    x, constants = read_inputs(x)
    if twice := sorted(map(str, {*(x if isinstance(x, dict) else ()), *constants} & {*(kwargs or {})})):
        raise TypeError(f"{call}(kwargs=...): {', '.join(map(repr, twice))} is in x too. Give it in one of them.")
    _check_devices(call, fm, inputs_of(call, x))
    if fm.training and not torch.compiler.is_dynamo_compiling():
        warn(
            f"{call}: the model is in training mode, so batch norm or dropout make its output depend on the batch "
            "or on chance. Call model.eval() first, unless this is meant."
        )
    given = dict(kwargs or {})
    layout = layout_of(call, example_dims, {**x, **constants} if constants else x, args, given)
    if layout is not None:
        layout, given = layout.with_constants(x, constants, given), {**given, **constants}
        x, args, given = layout.moved_x(x), moved_inputs(args, layout.args), moved_inputs(given, layout.kwargs)
    else:
        given |= constants
    aim = read_target(call, target)
    if isinstance(aim, of_outputs):
        aim = aim.fresh()
        if output is not None or layout is not None:
            given_beside = "output" if output is not None else "example_dims"
            raise TypeError(f"{call}(target=of_outputs(...), {given_beside}=...): it sees all outputs as they are.")
    aim = aim if layout is None else layout.moved_target(aim)
    question = Question(call, fm, x, aim, site, output, args, given, layout, forward_only, layers)
    return question._replace(**own({name: getattr(question, name) for name in ("x", "target", "args", "kwargs")}))


ask_at_layers = partial(ask, several=True)
"""The question of a method whose `layer` may be a list of sites."""


def own(tree: Any) -> Any:
    """In compiled code, copies of a tree's tensors: a loop, which is a `scan` there, takes none that share memory."""
    return pytree.tree_map_only(Tensor, torch.clone, tree) if torch.compiler.is_dynamo_compiling() else tree


def call_arguments(x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a model: a mapping of inputs goes by keyword."""
    if isinstance(x, Mapping):
        return args, {**kwargs, **x}
    return (*(x if isinstance(x, tuple) else (x,)), *args), kwargs


def _check_devices(call: str, model: FunctionalModel, inputs: list[Tensor]) -> None:
    if model.moves_inputs:
        return
    devices = {p.device for p in model.params.values()}
    for value in inputs:
        if devices and value.device not in devices:
            raise ValueError(
                f"{call}(x=...): the input is on {value.device}, the model on {', '.join(sorted(map(str, devices)))}. "
                "Move one of them."
            )
