"""Attributions as programs: traced into plain operations, which run without the model's source or this library."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from .._torch import UserError
from ..agreement import same_numbers
from ..errors import FuncattrError


def export(function: Callable[..., Any], *example: Tensor, dynamic_batch: bool = False) -> ExportedProgram:
    """Trace a function that explains a model into a `torch.export.ExportedProgram`.

    `torch.export.export` alone refuses the derivatives inside of an attribution. Here the function is traced with
    `make_fx` first, into a graph of plain operations with the model's parameters as constants.

    Args:
        function: A pure function of tensors, `lambda x: (model(x), gradient(model, x, 3))` say.
        example: Inputs to trace it with. Each [N, ...]
        dynamic_batch: Whether the program takes batches of any size. Nothing of the function may then depend on it.

    Returns:
        The program, for `torch.export.save`, `torch._inductor.aoti_compile_and_package` and whatever else takes one.
        It returns what the function returns, with named tuples as plain ones.

    Raises:
        TypeError: If an example is no tensor.
        ValueError: For a dynamic batch, if the examples have none in common, or the function makes it a constant.
        FuncattrError: If the traced program does not give what the function gives.

    Example:
        >>> import torch, funcattr
        >>> model = funcattr.functionalize(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()))
        >>> x = torch.ones(1, 3)
        >>> program = funcattr.export(lambda x: funcattr.gradient(model, x, 1), x, dynamic_batch=True)
        >>> program.module()(torch.ones(7, 3)).shape
        torch.Size([7, 3])
    """
    for value in example:
        if not isinstance(value, Tensor):
            raise TypeError(f"export(example=...): expected tensors, got {type(value).__name__}.")
    if dynamic_batch:
        example = _of_another_size(example)

    def plain(*inputs: Tensor) -> Any:
        return _without_names(function(*inputs))

    mode = "symbolic" if dynamic_batch else "real"
    # The parameters are real tensors beside symbolic inputs.
    with warnings.catch_warnings():
        # Of torch's own, where it makes fake copies of them.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        graph = make_fx(plain, tracing_mode=mode, _allow_non_fake_inputs=True)(*example)
        program = _program(graph, example, dynamic_batch)
    _check_equal(program, plain, example)
    if dynamic_batch:  # code that asks for the size of the batch may have been traced for this one only
        _check_equal(program, plain, tuple(torch.cat([value, value, value[:1]]) for value in example))
    return program


def _program(graph: torch.fx.GraphModule, example: tuple[Tensor, ...], dynamic_batch: bool) -> ExportedProgram:
    if not dynamic_batch:
        return torch.export.export(graph, example)
    batch = Dim("batch", min=1)
    try:
        return torch.export.export(graph, example, dynamic_shapes=tuple({0: batch} for _ in example))
    except UserError as error:
        raise ValueError(
            "export(dynamic_batch=True): something in the function makes the size of the batch a constant, as vmap and "
            "the derivative of fused attention do in torch 2.13, and Python code that asks for it. Export it for one "
            "size, or do without."
        ) from error


def _of_another_size(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The examples repeated to a batch that no other dimension is as large as: torch takes equal sizes for one."""
    batches = {value.shape[0] if value.ndim else 0 for value in example}
    if len(batches) != 1 or min(batches) < 1:
        shapes = [list(value.shape) for value in example]
        raise ValueError(
            f"export(dynamic_batch=True): expected examples with one batch in common, got shapes {shapes}."
        )
    others = {size for value in example for size in value.shape[1:]}
    size = next(prime for prime in (5, 7, 11, 13, 17, 19, 23, 29, 31, 37) if prime not in others)
    return tuple(value[torch.arange(size, device=value.device) % value.shape[0]] for value in example)


def _without_names(tree: Any) -> Any:
    """Named tuples as plain ones, which can be loaded where their class is not known."""
    if isinstance(tree, tuple | list):
        return tuple(map(_without_names, tree))
    return {name: _without_names(value) for name, value in tree.items()} if isinstance(tree, dict) else tree


def _check_equal(program: ExportedProgram, function: Callable[..., Any], example: tuple[Tensor, ...]) -> None:
    if not same_numbers(function(*example), program.module()(*example)):
        raise FuncattrError(
            "export(function=...): the traced program gives other numbers than the function. Look for random "
            "numbers, or control flow that looks at values or at the size of the batch."
        )
