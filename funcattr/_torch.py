"""Every private part of PyTorch that the package uses, and the versions of PyTorch that it was tested with.

Nothing else in the package may name a private part of torch (`tests/test_layout.py`): what a new torch version moves is
mended here.
"""

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TESTED = ("2.13", "2.14")
"""Minor versions of torch that the whole suite, or `.ci/run`'s part of it, passes with."""


def version_warning(found: str) -> str | None:
    """What a user of an untested torch is told, None for a tested one.

    Example:
        >>> version_warning("2.13.0+cpu") is None
        True
    """
    if ".".join(found.split(".")[:2]) in TESTED:
        return None
    return (
        f"funcattr uses private parts of torch, and was tested with torch {' and '.join(TESTED)}; this is {found}. "
        "Results may be wrong, or errors hard to read. Install a tested version, or run funcattr's tests on this one."
    )


if (_message := version_warning(torch.__version__)) is not None:
    warnings.warn(_message, stacklevel=2)

try:
    from torch._dynamo import OptimizedModule as OptimizedModule
    from torch._dynamo import assume_constant_result as assume_constant_result
    from torch._dynamo import nonstrict_trace as nonstrict_trace
    from torch._dynamo.exc import TorchDynamoException as TorchDynamoException
    from torch._dynamo.exc import UserError as UserError
    from torch._dynamo.symbolic_convert import InstructionTranslator
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters, temporarily_clear_interpreter_stack
    from torch._higher_order_ops.scan import scan as scan
    from torch._ops import HigherOrderOperator as HigherOrderOperator
    from torch._ops import OpOverload, OpOverloadPacket
    from torch.nn.attention.bias import CausalBias as CausalBias
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd
    from torch.nn.utils import parametrize as _parametrize
    from torch.overrides import (
        _is_torch_function_mode_enabled,
        _pop_mode,
        _push_mode,
    )
    from torch.utils import _pytree as pytree  # noqa: F401  (the other modules import it from here)
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    _functorch: Any = importlib.import_module("torch._C._functorch")
    _autograd: Any = importlib.import_module("torch._C._autograd")
    _forward_ad: Any = importlib.import_module("torch.autograd.forward_ad")
    _mode_at: Callable[[int], Any] = torch._C._get_function_stack_at
    _number_of_modes: Callable[[], int] = torch._C._len_torch_function_stack
    _users_of_storage: Callable[[int], int] = torch._C._storage_Use_Count
    _every_module: Any = importlib.import_module("torch.nn.modules.module")
    set_grad_enabled_function = torch._C._set_grad_enabled
    """What `torch.no_grad` and its kin call, as torch function modes see it."""
    softmax_backward = torch.ops.aten._softmax_backward_data.default
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"funcattr: torch {torch.__version__} lacks a private part that is needed ({error}). "
        f"Tested are torch {' and '.join(TESTED)}."
    ) from error

OPAQUE: Any = (HigherOrderOperator, torch.ScriptMethod, torch.jit.ScriptFunction)
"""Functions that run other operations inside, which no mode sees."""
TENSOR_TABLES = ("_parameters", "_buffers")
"""Attributes of a module that hold its own tensors by name."""
SUBMODULES = "_modules"
"""The attribute of a module that holds its submodules by name."""
HOOK_TABLES = tuple(
    name for name in vars(nn.Module()) if name.endswith(("_hooks", "_hooks_with_kwargs", "_always_called", "_set"))
)
"""Attributes of a module that hold its hooks, and the names of buffers that are not saved."""
RANDOM_IN_TRAINING = (_BatchNorm, _DropoutNd)
"""Modules whose output depends on the batch or on chance in training mode."""


# --- torch function modes and dispatch modes --------------------------------------------------------------------------


def function_modes() -> list[Any]:
    """The torch function modes of this thread, outermost first."""
    return [_mode_at(i) for i in range(_number_of_modes())] if _is_torch_function_mode_enabled() else []


@contextmanager
def no_function_modes() -> Iterator[None]:
    """Take the torch function modes of this thread off, for a run that none of them is told of."""
    modes = [_pop_mode() for _ in function_modes()]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


push_dispatch_mode: Callable[[TorchDispatchMode], None] = torch._C._push_on_torch_dispatch_stack
"""Enters a dispatch mode by hand: a `with` also sets flags that other threads would see."""
pop_dispatch_mode: Callable[[], TorchDispatchMode] = partial(torch._C._pop_torch_dispatch_stack, None)
"""Leaves the innermost dispatch mode, and returns it."""


def has_dispatch_mode() -> bool:
    """Whether a dispatch mode is on: tensors may be fake, or being traced."""
    return torch._C._len_torch_dispatch_stack() != 0


def dispatch_modes() -> list[Any]:
    """The dispatch modes of this thread, outermost first."""
    return _get_current_dispatch_mode_stack()


without_dispatch_modes = torch._C._DisableTorchDispatch
"""Lets operations past all dispatch modes."""
without_torch_function = torch._C.DisableTorchFunction
without_subclass_function = torch._C.DisableTorchFunctionSubclass
"""Turns off the torch functions of classes, and leaves the modes on."""


def operator_name(func: Any) -> str | None:
    """The name of an operator, such as "relu" for `torch.ops.aten.relu.default`; None for other functions.

    A library's own operators keep its name, "library::operator": they are none of torch's, however they are called.
    """
    if not is_operator(func):
        return None
    name = func._schema.name if isinstance(func, OpOverload) else func._qualified_op_name
    return name.removeprefix("aten::")


class Parameter(NamedTuple):
    """A parameter of an operator: its name, whether it goes by keyword only, and whether its tensors are written."""

    name: str
    by_keyword: bool
    is_written: bool


def schemas(func: Any, name: str) -> list[list[Parameter]]:
    """The parameters of each overload of the operator behind a function of torch's, none for functions in Python."""
    if isinstance(func, OpOverload):
        found = [func._schema]
    elif isinstance(func, OpOverloadPacket):
        found = [getattr(func, overload)._schema for overload in func.overloads()]
    else:
        found = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    return [
        [Parameter(a.name, a.kwarg_only, a.alias_info is not None and a.alias_info.is_write) for a in s.arguments]
        for s in found
    ]


def is_operator(func: Any) -> bool:
    """Whether `func` is an operator of a library, called by its own name, rather than a function of torch's."""
    return isinstance(func, OpOverload | OpOverloadPacket)


def functional_operator(func: Any) -> Any:
    """The operator that gives as its result what `func`, such as `aten.add.out`, writes; None if there is none."""
    name = operator_name(func)
    return None if name is None or "::" in name else getattr(torch.ops.aten, name.removesuffix("_"), None)


def saved_hooks() -> tuple[Any, Any] | None:
    """What packs and unpacks the tensors that autograd saves, as checkpointing does; None for nothing."""
    return _autograd._top_saved_tensors_default_hooks(True)


def is_offloading_hook(pack: Any) -> bool:
    """Whether what packs a saved tensor only moves it to another device, as `save_on_cpu` does."""
    return getattr(pack, "__qualname__", "").startswith("save_on_cpu.") and pack.__module__ == "torch.autograd.graph"


@contextmanager
def without_saved_hooks() -> Iterator[None]:
    """Suspend what packs the tensors that autograd saves, as checkpointing does: it would run the model again."""
    taken = []
    while (hooks := _autograd._top_saved_tensors_default_hooks(True)) is not None:
        taken.append(hooks)
        _autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pack, unpack in reversed(taken):
            _autograd._push_saved_tensors_default_hooks(pack, unpack)


def func_vjp(function: Callable[..., Any], *primals: Tensor) -> Any:
    """What `torch.func.vjp` does, which refuses to where saved tensors are packed, as by `save_on_cpu`."""
    with without_saved_hooks():
        return torch.func.vjp(function, *primals)


# --- torch.func transforms --------------------------------------------------------------------------------------------


current_level: Callable[[], int | None] = _functorch.maybe_current_level
"""Depth of the innermost running transform (`vmap`, `grad`, ...), None outside of any."""


def has_silent_derivative(value: Tensor) -> bool:
    """Whether torch would give zeros as the derivative of `value`, with a warning: its operator has none."""
    return value.grad_fn is not None and value.grad_fn.name() == "torch::autograd::WarnNotImplemented"


def is_differentiated(value: Any) -> bool:
    """Whether `value` is a tensor that the innermost transform differentiates."""
    if not isinstance(value, Tensor) or not _functorch.is_gradtrackingtensor(value):
        return False
    return _functorch.maybe_get_level(value) == current_level() and value.requires_grad


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform wraps the tensor, so that its values are not to be seen."""
    return _functorch.is_functorch_wrapped_tensor(tensor)


outside_transforms = temporarily_clear_interpreter_stack
"""A context where no transform runs, for tensors that none of them wraps."""


def unwrapped(tensor: Tensor) -> list[Tensor]:
    """The tensors under `tensor`, one for each transform that wraps it."""
    layers: list[Tensor] = []
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        layers.append(tensor)
    return layers


AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # pyright: ignore[reportAttributeAccessIssue]
"""The node of a leaf in autograd's graph; its `variable` is the leaf."""


def inside_dual_level() -> bool:
    """Whether tensors may carry tangents, as `torch.autograd.forward_ad` makes them: no flag of a tensor tells."""
    return _forward_ad._current_level >= 0


@assume_constant_result
def inside_derivative() -> bool:
    """Whether a `grad`, `vjp` or `jvp` transform is running."""
    kinds = {interpreter.key().name for interpreter in retrieve_all_functorch_interpreters()}
    return bool(kinds & {"Grad", "Jvp"})


@assume_constant_result
def may_scan() -> bool:
    """Whether Dynamo, which traces this, can put a scan here: not inside a transform or the body of another."""
    tracer: Any = InstructionTranslator.current_tx().output.current_tracer
    return current_level() is None and tracer.parent is None


# --- tensors and modules ----------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where the values of a tensor lie in its memory; sizes and strides count values."""

    offset: int
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def overlaps(self) -> bool:
        """Whether several of the values may lie in one place, as those of an expanded tensor do."""
        reach = 0
        for step, length in sorted(zip(self.stride, self.size, strict=True)):
            if length > 1 and step <= reach:
                return 0 not in self.size
            reach += step * (length - 1)
        return False


def memory(tensor: Tensor) -> Any:
    """The storage that holds a tensor's values, however many transforms wrap it; None if it has none.

    Its `_cdata` is one number for all tensors that share memory.
    """
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # wrapped, sparse, or of another layout
        pass
    tensor = _innermost(tensor)
    try:
        if tensor.layout is torch.sparse_coo:
            tensor = tensor._values()
        elif tensor.layout is not torch.strided:
            tensor = tensor.values()
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def reserve(storage: Any) -> int:
    """The number of a storage, which no other one gets until `release`; its memory is freed as ever."""
    return storage._weak_ref()


release = torch.UntypedStorage._free_weak_ref


def one_of_mapped(tensor: Tensor) -> Tensor:
    """The values of a tensor that transforms wrap: of those that `vmap` maps over, the first ones."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        mapped = _functorch.is_batchedtensor(tensor)
        dim = _functorch.maybe_get_bdim(tensor) if mapped else 0
        tensor = _functorch.get_unwrapped(tensor)
        tensor = tensor.select(dim, 0) if mapped else tensor
    return tensor


def place(tensor: Tensor) -> Place:
    """Where a tensor's values lie in its memory; a sparse tensor is told by its number of values alone."""
    tensor = _innermost(tensor)
    try:
        offset: Any = tensor.storage_offset()
        return Place(offset, tensor.shape, tensor.stride(), tensor.dtype)
    except (NotImplementedError, RuntimeError):
        return Place(0, torch.Size([tensor._nnz()]), (1,), tensor.dtype)


def plain_place(tensor: Tensor) -> tuple[Any, ...]:
    """The same for a tensor that no transform wraps, faster; equal to a `Place`."""
    try:
        return (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
    except (NotImplementedError, RuntimeError):
        return place(tensor)


def _innermost(tensor: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def version(tensor: Tensor) -> int:
    """How often the memory of a tensor was written; 0 for one of inference mode, which does not count.

    A tensor that `vmap` maps over counts no writes itself: what it wraps does.
    """
    try:
        return _innermost(tensor)._version
    except RuntimeError:
        return 0


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """The `version` of each tensor."""
    if current_level() is None:  # nearly always: no transform wraps them
        try:
            return [tensor._version for tensor in tensors]
        except RuntimeError:
            pass
    return list(map(version, tensors))


def without_memory(
    kind: Any, shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Any:
    """A tensor of a subclass that has no values, and that no running transform wraps."""
    return Tensor._make_wrapper_subclass(kind, shape, strides=strides, dtype=dtype, device=device)


def is_mask_object(value: Any) -> bool:
    """Whether `value` is an attention mask that only `scaled_dot_product_attention` understands."""
    return isinstance(value, CausalBias)


def dense_mask(mask: Any, device: torch.device) -> Tensor:
    """The boolean mask that an object stands for."""
    return mask._materialize(device)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks of its own see what a module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_global_hooks() -> bool:
    """Whether forward hooks see what every module computes."""
    return bool(_every_module._global_forward_hooks or _every_module._global_forward_pre_hooks)


def original_module(model: Any) -> Any:
    """The module that `torch.compile` has wrapped; other things as they are."""
    return model._orig_mod if isinstance(model, OptimizedModule) else model


def is_compiled_function(value: Any) -> bool:
    """Whether `torch.compile` has made `value` of a function."""
    return hasattr(value, "_torchdynamo_orig_callable")


def class_of_copy(module: nn.Module, kind: type[nn.Module]) -> type[nn.Module]:
    """The class for a copy of a module: `kind`, or one that computes its parametrised weights itself.

    Under `torch.nn.utils.parametrize.cached` a weight is looked up by the id of the module that was parametrised, and
    its copies would find its.
    """
    if not _parametrize._cache_enabled or not _parametrize.is_parametrized(module):
        return kind
    names = tuple(module.parametrizations)  # pyright: ignore[reportArgumentType]
    return type(kind.__name__, (kind,), {name: property(_computed(name)) for name in names})


def _computed(name: str) -> Any:
    return lambda module: module.parametrizations[name]()


def memory_of(tensor: Tensor) -> int | None:
    """A number for the memory of a tensor, None where there is none; views have that of their base."""
    storage = memory(tensor)
    return None if storage is None else storage._cdata


def memories_of(tensors: Sequence[Tensor]) -> list[int | None]:
    """The `memory_of` each tensor."""
    try:
        return [tensor.untyped_storage()._cdata for tensor in tensors]  # nearly always
    except (NotImplementedError, RuntimeError):
        return list(map(memory_of, tensors))


def has_own_memory(tensor: Tensor) -> bool:
    """Whether no other tensor lies in the memory of this one, as torch counts them; False where that cannot be told."""
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return _users_of_storage(storage._cdata) <= 2  # the tensor and `storage`


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a strided one of torch's own class, with real memory, and no transform's."""
    kinds = (Tensor, nn.Parameter, nn.Buffer)
    return (
        type(tensor) in kinds and tensor.layout is torch.strided and not _functorch.is_functorch_wrapped_tensor(tensor)
    )


def names_of_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the memory of others, but with a count of writes (`version`) and a derivative of their own."""
    if torch.compiler.is_compiling() or not all(is_plain(t) or is_sharded(t) for t in tensors.values()):
        return {name: tensor.detach() for name, tensor in tensors.items()}
    with without_torch_function(), temporarily_clear_interpreter_stack():
        return {n: t.detach() if is_sharded(t) else t.data for n, t in tensors.items()}


def move_to_a_copy(tensors: list[Tensor]) -> None:
    """Let plain tensors with one memory have a copy of it from now on, together."""
    with without_torch_function(), temporarily_clear_interpreter_stack():
        copy = tensors[0].untyped_storage().clone()
        for tensor in tensors:
            empty: Any = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            tensor.data = empty.set_(copy, tensor.storage_offset(), tensor.size(), tensor.stride())


def renew_flat_weights(module: nn.RNNBase) -> None:
    """Let a recurrent module's list of weights, beside its table of parameters, be that of the table."""
    module.__dict__["_flat_weights"] = [getattr(module, name) for name in module._flat_weights_names]


# --- sharded models ---------------------------------------------------------------------------------------------------

COMPOSABLE_STATE = "__composable_api_state_key"
"""Begins the names of attributes that `fully_shard` and its kin put on a module."""
_LAYOUTS = ("torch.distributed.tensor._api", "torch.distributed.tensor.parallel.style")


def _loaded(module: str, name: str) -> Any:
    """A part of torch.distributed; None while nobody has imported it, so that nothing can be sharded by it."""
    return getattr(sys.modules.get(module), name, None)


def is_sharded(value: Any) -> bool:
    """Whether `value` is a tensor that is spread over processes."""
    if type(value) in (Tensor, nn.Parameter):  # nearly always
        return False
    kind = _loaded("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(value, kind)


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor, the whole of one that is not sharded."""
    return tensor._local_tensor if is_sharded(tensor) else tensor


def may_be_sharded() -> bool:
    """Whether something that shards models has been imported."""
    return "torch.distributed.tensor" in sys.modules


def is_old_fsdp(kind: type[nn.Module]) -> bool:
    """Whether a class is `FullyShardedDataParallel`, which keeps the parameters of a module as pieces of a flat one."""
    old = _loaded("torch.distributed.fsdp", "FullyShardedDataParallel")
    return old is not None and issubclass(kind, old)


def is_fsdp(kind: type[nn.Module]) -> bool:
    """Whether a class is one of those that `fully_shard` makes, or `FullyShardedDataParallel`."""
    return hasattr(kind, "_orig_cls_mro_index") or is_old_fsdp(kind)


@contextmanager
def outside_the_pass() -> Iterator[None]:
    """What runs here is no part of the pass: no mode, no transform and no autograd sees it."""
    modes = [pop_dispatch_mode() for _ in dispatch_modes()]
    try:
        with (
            without_torch_function(),
            temporarily_clear_interpreter_stack(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        for mode in reversed(modes):
            push_dispatch_mode(mode)


def gathered(tensor: Any) -> Tensor:
    """The whole of a sharded tensor, in memory of its own."""
    with outside_the_pass():
        whole, local = tensor.full_tensor(), tensor.to_local()
        return whole.clone() if memory_of(whole) == memory_of(local) else whole


class FullyShard(NamedTuple):
    """What `fully_shard` does to one module.

    Attributes:
        kind: The module's class before.
        before, after: The numbers of its hooks on the module, before and after its forward.
        inputs, outputs: The dtypes that it casts the module's inputs and outputs to, None for as they are.
    """

    kind: type[nn.Module]
    before: frozenset[int]
    after: frozenset[int]
    inputs: torch.dtype | None
    outputs: torch.dtype | None


class FullyShardedTensor(NamedTuple):
    """A parameter that `fully_shard` manages.

    Attributes:
        shard: The sharded parameter.
        whole: Gathers it.
        again: What gathers it once more, None where the module has it whole now, and may not later.
        extended: Whether it is gathered by functions of its own, as those in eight bits are.
    """

    shard: Tensor
    whole: Callable[[], Tensor]
    again: Callable[[], Callable[[], Tensor] | None]
    extended: bool


def fully_shard_of(module: nn.Module) -> FullyShard | None:
    """What `fully_shard` does to a module; None where it was not called on it."""
    state = _fully_shard_state(module)
    if state is None:
        return None
    handles = (state._pre_forward_hook_handle, state._post_forward_hook_handle)
    numbers = {one.id for handle in handles for one in getattr(handle, "handles", (handle,))}
    before, after = (numbers & table.keys() for table in (module._forward_pre_hooks, module._forward_hooks))
    policy, kind = state._mp_policy, type(module)
    inputs = policy.param_dtype if policy.cast_forward_inputs else None
    kind = kind.__mro__[getattr(kind, "_orig_cls_mro_index", 0)]
    return FullyShard(kind, frozenset(before), frozenset(after), inputs, policy.output_dtype)


def fully_sharded_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, FullyShardedTensor]]:
    """The parameters of the groups that begin at a module: whose they are, their names there, and themselves."""
    state = _fully_shard_state(module)
    for group in () if state is None else state._fsdp_param_groups:
        for managed in group.fsdp_params:
            info = managed._module_info
            extended = hasattr(managed._sharded_local_tensor, "fsdp_pre_all_gather")
            whole, again = partial(_whole, managed), partial(_again, managed)
            found = FullyShardedTensor(managed.sharded_param, whole, again, extended)
            yield info.module, info.param_name, found
            for other, name in zip(info.shared_modules, info.shared_param_names, strict=True):
                yield other, name, found


def _fully_shard_state(module: nn.Module) -> Any:
    if not hasattr(type(module), "_orig_cls_mro_index"):  # the class that it makes has
        return None
    ask = _loaded("torch.distributed.fsdp._fully_shard._fsdp_state", "_get_module_fsdp_state")
    return None if ask is None else ask(module)


def _again(managed: Any) -> Callable[[], Tensor] | None:
    return None if managed.sharded_state.name == "UNSHARDED" else partial(_of_shard, managed)


def _whole(managed: Any) -> Tensor:
    """The whole of a parameter that `fully_shard` manages, as the module would compute with it now."""
    if managed.sharded_state.name != "UNSHARDED":
        return _of_shard(managed)
    with outside_the_pass():  # a copy, for its memory is freed when the module is sharded again
        whole = managed.unsharded_param
        return gathered(whole) if is_sharded(whole) else whole.detach().clone()


def _of_shard(managed: Any) -> Tensor:
    with outside_the_pass():
        shard, dtype = managed.sharded_param.detach(), managed.mp_policy.param_dtype
        if managed.offload_to_cpu:
            shard = type(shard).from_local(
                shard.to_local().to(managed.device),
                shard.device_mesh,
                shard.placements,
                run_check=False,
                shape=shard.shape,
                stride=shard.stride(),
            )
        whole = gathered(shard)
        return whole if dtype is None or not whole.is_floating_point() else whole.to(dtype)


def version_of_shard(tensor: Any) -> int:
    """How often a sharded tensor was written, as a whole or by this process's part."""
    with outside_the_pass():
        return version(tensor) + version(local(tensor))


def cast_floating(dtype: torch.dtype, values: Any) -> Any:
    """Values with their floating-point tensors in a dtype, as `fully_shard` casts them."""
    from torch.distributed.utils import _apply_to_tensors

    return _apply_to_tensors(lambda t: t.to(dtype) if torch.is_floating_point(t) else t, values)


def layout_hook(hook: Any) -> bool | None:
    """Whether a module's hook only says how tensors are laid out over processes, as those of `parallelize_module` do.

    None for a hook of torch.distributed of which that is not known.
    """
    function = _function(hook)
    home = getattr(function, "__module__", None) or ""
    if not home.startswith("torch.distributed.tensor."):
        return False
    if home not in _LAYOUTS:
        return None
    if home == _LAYOUTS[1]:
        return True
    held = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    given = [_function(cell.cell_contents) for name, cell in held.items() if name in ("input_fn", "output_fn")]
    own = [f for f in given if (getattr(f, "__module__", None) or "") != _LAYOUTS[1]]
    return None if own else True


def _function(hook: Any) -> Any:
    while isinstance(hook, partial | types.MethodType):
        hook = hook.func if isinstance(hook, partial) else hook.__func__
    return hook
