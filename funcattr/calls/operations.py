"""The operations table: one canonical name for the many spellings of a torch function.

Rulebooks speak of canonical names (`"relu"`, `"conv2d"`, `"add"`); the recorder asks this table what a torch
function is called, which arguments it has, and whether it writes in place or returns a view.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import OPAQUE, functional_operator, is_operator, operator_name, schemas
from ..torch_state import can_look_at

# name: other spellings : parameters, in the order of the positional arguments
_ROWS = """
relu        : : input inplace
relu6       : : input inplace
hardtanh    : : input min_val max_val inplace
threshold   : _threshold : input threshold value inplace
clamp       : clip : input min max
clamp_min   : : input min
leaky_relu  : : input negative_slope inplace
elu         : : input alpha inplace
celu        : : input alpha inplace
selu        : : input inplace
rrelu       : : input lower upper training inplace
silu        : : input inplace
mish        : : input inplace
hardswish   : : input inplace
hardsigmoid : : input inplace
gelu        : : input approximate
sigmoid     : expit : input
tanh        : : input
softplus    : : input beta threshold
logsigmoid  : log_sigmoid : input
prelu       : : input weight
glu         : : input dim
function    : : input
dropout     : feature_dropout : input p training inplace
dropout1d   : : input p training inplace
dropout2d   : : input p training inplace
dropout3d   : : input p training inplace
alpha_dropout : : input p training inplace
feature_alpha_dropout : : input p training inplace
linear      : : input weight bias
conv1d      : : input weight bias stride padding dilation groups
conv2d      : : input weight bias stride padding dilation groups
conv3d      : : input weight bias stride padding dilation groups
conv_transpose1d : : input weight bias stride padding output_padding groups dilation
conv_transpose2d : : input weight bias stride padding output_padding groups dilation
conv_transpose3d : : input weight bias stride padding output_padding groups dilation
matmul      : mm bmm mv dot __matmul__ linalg_matmul : input other
grouped_mm  : _grouped_mm : input mat2 offs bias out_dtype
rounded_div : : input other rounding_mode
rmatmul     : __rmatmul__ : input other
addmm       : : input mat1 mat2
add         : __add__ __radd__ __iadd__ : input other
sub         : subtract __sub__ __isub__ : input other
rsub        : __rsub__ : input other
mul         : multiply __mul__ __rmul__ __imul__ : input other
div         : divide true_divide __truediv__ __div__ __itruediv__ __idiv__ : input other
rdiv        : __rdiv__ __rtruediv__ : input other
pow         : float_power __pow__ __ipow__ : input exponent
rpow        : __rpow__ : input other
neg         : negative __neg__ : input
abs         : absolute __abs__ : input
max_pool1d  : max_pool1d_with_indices _max_pool1d : input kernel_size stride padding dilation ceil_mode
max_pool2d  : max_pool2d_with_indices _max_pool2d : input kernel_size stride padding dilation ceil_mode
max_pool3d  : max_pool3d_with_indices _max_pool3d : input kernel_size stride padding dilation ceil_mode
adaptive_max_pool1d : adaptive_max_pool1d_with_indices _adaptive_max_pool1d : input output_size
adaptive_max_pool2d : adaptive_max_pool2d_with_indices _adaptive_max_pool2d : input output_size
adaptive_max_pool3d : adaptive_max_pool3d_with_indices _adaptive_max_pool3d : input output_size
batch_norm  : : input running_mean running_var weight bias training momentum eps
layer_norm  : : input normalized_shape weight bias eps
group_norm  : : input num_groups weight bias eps
instance_norm : : input running_mean running_var weight bias use_input_stats momentum eps
rms_norm    : : input normalized_shape weight eps
softmax     : : input dim
log_softmax : : input dim
logsumexp   : : input dim keepdim
scaled_dot_product_attention : : query key value attn_mask dropout_p is_causal
normalize   : : input p dim eps
local_response_norm : : input size alpha beta k
embedding   : : input weight
einsum      : : equation
einsum_of_one : : equation
cat         : concat concatenate : tensors dim
stack       : : tensors dim
pad         : : input pad mode value
pow_by_a_tensor : : input exponent
scatter_mean : : input dim index src reduce
scatter_reduce_prod : : input dim index src reduce
grid_sample : grid_sampler grid_sampler_2d grid_sampler_3d : input grid
cholesky_solve : : input input2
lu_solve    : : input LU_data LU_pivots
linalg_lu_solve : : LU pivots B
linalg_solve : : A B
linalg_solve_triangular : : input B
embedding_bag : : input weight
fmod        : __mod__ : input other
remainder   : : input other
atan2       : arctan2 : input other
copysign    : : input other
ldexp       : : input other
xlogy       : : input other
xlog1py     : : input other
logaddexp   : : input other
logaddexp2  : : input other
linalg_vecdot : vecdot : input other
where       : : condition input other
masked_fill : : input mask value
maximum     : fmax : input other
index_put   : : input indices values accumulate
put         : : input index source accumulate
scatter     : : input dim index src reduce value
scatter_reduce : : input dim index src reduce include_self
index_reduce : : input dim index source reduce include_self
"""


class Operation(NamedTuple):
    """A canonical operation, as one function spells it.

    Attributes:
        name: Of the operation.
        parameters: The names of the parameters that go by position, in the order of the function that was called.
        keywords: The names by which that function itself knows them, where they differ.
    """

    name: str
    parameters: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()


def _read_table() -> dict[str, Operation]:
    table: dict[str, Operation] = {}
    for line in _ROWS.strip().splitlines():
        name, spellings, parameters = (part.split() for part in line.split(":"))
        for spelling in (*name, *spellings):
            table[spelling] = Operation(name[0], tuple(parameters))
    return table


OPERATIONS: Mapping[str, Operation] = _read_table()

CONVOLUTIONS: Mapping[str, tuple[int, bool]] = {
    **{f"conv{n}d": (n, False) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (n, True) for n in (1, 2, 3)},
}
"""Convolutions: their number of spatial dimensions, and whether they are transposed."""
MAX_POOLS = frozenset(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))
AVERAGE_POOLS = frozenset(f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))
NORMALIZATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split())

ACTIVATIONS = frozenset(
    "relu relu6 hardtanh threshold leaky_relu elu celu selu rrelu silu mish hardswish hardsigmoid gelu sigmoid "
    "tanh softplus logsigmoid prelu glu softsign hardshrink softshrink tanhshrink".split()
)
"""Elementwise nonlinearities, by canonical name."""

VIEWS = frozenset(
    "view view_as reshape reshape_as expand expand_as broadcast_to permute transpose t T mT H mH movedim moveaxis "
    "swapaxes swapdims squeeze unsqueeze flatten unflatten ravel __getitem__ select narrow split split_with_sizes "
    "chunk tensor_split hsplit vsplit dsplit unbind diagonal unfold real imag alias contiguous to type "
    "type_as float double half bfloat16 as_strided broadcast_tensors view_as_real view_as_complex atleast_1d "
    "atleast_2d atleast_3d detach data dropout cpu cuda".split()
)
"""Functions whose result may share memory with an operand."""

LIKE = frozenset("to type_as view_as reshape_as expand_as".split())
"""Functions that take a shape or a dtype of their second argument, and none of its values."""

QUERIES = frozenset(
    "size dim ndimension numel nelement stride storage_offset is_contiguous is_floating_point is_complex get_device "
    "data_ptr untyped_storage element_size __len__ __hash__ __repr__ __format__ is_same_size is_nonzero "
    "is_set_to is_tensor result_type can_cast is_signed is_conj is_neg _is_view dim_order type_name __iter__ "
    "__contains__ __bool__ __int__ __float__ __index__ item tolist is_inference gt lt ge le eq ne __gt__ __lt__ "
    "__ge__ __le__ __eq__ __ne__ isnan isinf isfinite isclose allclose equal argmax argmin argsort logical_not "
    "logical_and logical_or logical_xor nonzero count_nonzero any all searchsorted bucketize zeros_like ones_like "
    "empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full new_tensor "
    "detach tensor sign sgn signbit bincount __dlpack_device__ _has_compatible_shallow_copy_type".split()
)
"""Functions whose result carries no derivative: sizes, comparisons, indices, constants of a tensor's shape."""

OF_FORM = frozenset(
    "shape size dim ndim ndimension dtype device layout numel nelement is_floating_point is_complex is_cuda "
    "__len__".split()
)
"""Queries of a tensor's form, which its values do not enter."""

FORM_QUERIES = OF_FORM | frozenset(
    "stride storage_offset is_contiguous get_device data_ptr untyped_storage element_size __hash__ is_same_size "
    "is_set_to is_tensor result_type can_cast is_signed is_conj is_neg _is_view dim_order type_name is_inference "
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full "
    "__dlpack_device__ _has_compatible_shallow_copy_type".split()
)
"""Functions that read no value of a tensor: of its form, its memory and its history, or that make one like it."""

READS = frozenset(
    "item tolist __bool__ __int__ __float__ __index__ __complex__ __contains__ __repr__ __format__ equal allclose "
    "is_nonzero".split()
)
"""Queries that give a tensor's values to Python."""

TENSOR_GETTERS = frozenset("T mT H mH real imag".split())
"""Attributes that are tensors with a derivative; every other attribute is a query."""

REFUSED = frozenset(
    "numpy __array__ __array_wrap__ backward register_hook register_post_accumulate_grad_hook retain_grad __set__ "
    "grad __dlpack__ set_ resize_ resize_as_ apply_ map_ map2_ bernoulli_ __reduce_ex__ __delete__ "
    "__cuda_array_interface__".split()
)
"""Functions that lead out of the recorder, or that change a tensor under it."""

DRAWS = frozenset(
    "rand randn randint randperm rand_like randn_like randint_like bernoulli normal poisson multinomial uniform "
    "exponential geometric cauchy log_normal random".split()
)
"""Functions whose result is drawn at random, in place or not."""

_DRAW_IN_TRAINING: Mapping[str, bool] = {
    "rrelu": False,
    **dict.fromkeys(DROPOUTS, True),
}
"""Functions that draw where `training` is true, with its default."""

UPDATES: Mapping[str, tuple[str, bool]] = {
    "batch_norm": ("training", False),
    "instance_norm": ("use_input_stats", True),
}
"""Normalisations that write their running statistics, with the flag that says so and its default."""

CONTAINS: Mapping[str, str] = {"rnn_relu": "relu", "rnn_relu_cell": "relu", "_addmm_activation": "relu"}
"""Functions that do another operation inside, where no rule for it could reach."""

_NOT_WRITES = frozenset(["requires_grad_", "share_memory_"])
_AUGMENTED = {
    f"__i{n}__": f"__{n}__" for n in "add sub mul truediv div floordiv mod pow and or xor lshift rshift matmul".split()
}


@lru_cache(maxsize=4096)
def spelled(func: Any) -> str:
    """The name a torch function goes by: attribute getters by their attribute, operator overloads by packet."""
    if (overload := operator_name(func)) is not None:
        return overload
    name = getattr(func, "__name__", type(func).__name__)
    return func.__self__.__name__ if name == "__get__" else name


def is_getter(func: Callable[..., Any]) -> bool:
    """Whether `func` reads an attribute of a tensor."""
    return getattr(func, "__name__", "") == "__get__"


def canonical(name: str) -> Operation:
    """The operation that `name` spells; an unlisted function is its own operation."""
    name = name.removeprefix("special_")
    base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return OPERATIONS.get(base) or Operation(base)


class Known(NamedTuple):
    """What a torch function tells of its calls: its name, its operation, and what kind of call it makes."""

    name: str
    operation: Operation
    is_query: bool
    """Whether its result carries no derivative."""
    is_write: bool
    """Whether it writes into its first argument."""
    is_opaque: bool
    """Whether it runs other operations inside, which no mode sees."""
    written: tuple[tuple[int | None, str], ...] = ()
    """Places and names of the arguments that an operator writes, by its schema."""


@lru_cache(maxsize=4096)
def known(func: Callable[..., Any]) -> Known:
    """What a torch function tells of its calls, by its name, and by its schema or its signature."""
    name = spelled(func)
    is_query = name in QUERIES or (is_getter(func) and name not in TENSOR_GETTERS and name not in REFUSED)
    written: tuple[tuple[int | None, str], ...] = ()
    if is_operator(func):
        (overload, *_) = schemas(func, name)
        places = [(None if p.by_keyword else i, p.name) for i, p in enumerate(overload) if p.is_written]
        written = tuple(places)
    is_write = not written and _writes_in_place(name)
    return Known(name, _as_called(func, name), is_query, is_write, isinstance(func, OPAQUE), written)


# What a parameter is called in the operations table, where schemas have another name for it.
_TABLE_NAMES = {"self": "input", "mat2": "other", "vec": "other", "tensor": "other", "train": "training"}


def _as_called(func: Callable[..., Any], name: str) -> Operation:
    """The operation that a function spells, with its parameters in the function's own order."""
    operation = canonical(name)
    own = _positional(inspect.unwrap(func), name, operation)
    if own is None:
        return operation
    if "self" in own and func is getattr(Tensor, name, None):  # a method has it first, wherever its operator has it
        own = ("self", *(n for n in own if n != "self"))
    rows = operation.parameters
    special = {"indices": "input"} if operation.name == "embedding" else _TABLE_NAMES
    names = tuple(special.get(n, n) if n not in rows else n for n in own)
    return Operation(operation.name, names, own if own != names else ())


def _positional(func: Callable[..., Any], name: str, operation: Operation) -> tuple[str, ...] | None:
    """The parameters that go by position, by the function's own names; None where nothing tells them."""
    if not inspect.isfunction(func):
        if not operation.parameters:
            return None
        found = [tuple(p.name for p in overload if not p.by_keyword) for overload in schemas(func, name)]
        # Overloads of one operator differ in what comes last (a dimension by name or by number).
        return max((own for own in found if "Dimname" not in own), key=len, default=None)
    kinds = inspect.signature(func).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in kinds):
        return None
    return tuple(p.name for p in kinds if p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD)


def is_known(name: str) -> bool:
    """Whether some torch function goes by that name."""
    return name in OPERATIONS or any(hasattr(home, name) for home in (Tensor, torch, F, torch.special, torch.ops.aten))


def bound(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str, default: Any) -> Any:
    """The argument called `name`, wherever the caller put it."""
    if name in kwargs:
        return kwargs[name]
    if name in operation.parameters:
        i = operation.parameters.index(name)
        if i < len(args):
            return args[i]
        if operation.keywords:
            return kwargs.get(operation.keywords[i], default)
    return default


def named(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by their names in the operations table."""
    if operation.keywords:
        names = dict(zip(operation.keywords, operation.parameters, strict=True))
        kwargs = {names.get(key, key): value for key, value in kwargs.items()}
    return dict(zip(operation.parameters, args, strict=False)) | dict(kwargs)


def refine(
    operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: tuple[Any, ...] = ()
) -> Operation:
    """Tell a call for what it is, where its name does not; `positions` are those of its tracked operands.

    `clamp(min=0)`, `hardtanh(0, b)`, `threshold(0, 0)`, relu6 and `maximum(x, 0)` are relu. A negative power is a
    reciprocal, and so is a constant over x. What adds up in place (`index_put(accumulate=True)`, ...) is a sum.

    The operation keeps its own parameters, so that a rule finds an upper bound under its name (`max`, `max_val`).
    """
    refined = _REFINED.get(operation.name)
    return operation if refined is None else operation._replace(name=refined(operation, args, kwargs, positions))


def _refined_power(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any) -> str:
    exponent = bound(operation, args, kwargs, "exponent", None)
    if not isinstance(exponent, Tensor):
        return "reciprocal" if isinstance(exponent, int | float) and exponent < 0 else "pow"
    base = bound(operation, args, kwargs, "input", None)
    if len(positions) != 1 or is_argument(positions[0], operation, "exponent"):
        return "rpow" if not isinstance(base, Tensor) or len(positions) == 1 else "pow"
    if not can_look_at(exponent):
        return "pow_by_a_tensor"
    return "reciprocal" if bool((exponent < 0).all()) else "pow"


def _refined_quotient(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any) -> str:
    if bound(operation, args, kwargs, "rounding_mode", None) is not None:
        return "rounded_div"
    return "rdiv" if len(positions) == 1 and is_argument(positions[0], operation, "other") else "div"


def is_argument(position: Any, operation: Operation, name: str) -> bool:
    """Whether the position of an operand is that of the argument called `name`."""
    if len(position) > 1:
        return False
    key, names, keywords = position[0], operation.parameters, operation.keywords
    if isinstance(key, str):
        return key == name or (key in keywords and names[keywords.index(key)] == name)
    return key < len(names) and names[key] == name


def _refined_rectifier(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any) -> str:
    floors = _RECTIFIERS[operation.name]
    values = [bound(operation, args, kwargs, name, default) for name, default in floors]
    upper = bound(operation, args, kwargs, "max", None)
    of_input = all(is_argument(position, operation, "input") for position in positions)
    scale = bound(operation, args, kwargs, "scale", 1)  # of an elu
    is_plain = not isinstance(upper, Tensor) and not isinstance(scale, Tensor) and scale == 1
    is_relu = of_input and is_plain and all(is_zero(value) for value in values)
    return "relu" if is_relu else operation.name


def _refined_maximum(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any) -> str:
    if len(positions) != 1:
        return operation.name
    values = [*args, *kwargs.values()]
    if len(values) != 2 or not all(isinstance(v, Tensor) for v in values):
        return operation.name
    tracked = values[0] if positions[0] in ((0,), ("input",)) else values[1]
    floor = values[1] if tracked is values[0] else values[0]
    fits = floor.ndim <= tracked.ndim and all(n in (1, m) for n, m in zip(floor.shape[::-1], tracked.shape[::-1]))
    return "relu" if fits and is_zero(floor) else operation.name


def _refined_accumulation(
    operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any
) -> str:
    if operation.name in ("index_put", "put"):
        return "scatter_add" if bound(operation, args, kwargs, "accumulate", False) else operation.name
    reduction = bound(operation, args, kwargs, "reduce", None)
    return operation.name if reduction is None else _REDUCTIONS.get(reduction, f"{operation.name}_{reduction}")


_REDUCTIONS = {"add": "scatter_add", "sum": "scatter_add", "mean": "scatter_mean", "amax": "amax", "amin": "amin"}

# Operations that are a relu where these parameters are zero.
_RECTIFIERS: Mapping[str, tuple[tuple[str, float | None], ...]] = {
    "relu6": (),
    "hardtanh": (("min_val", -1.0),),
    "clamp": (("min", None),),
    "clamp_min": (("min", None),),
    "threshold": (("threshold", None), ("value", None)),
    "leaky_relu": (("negative_slope", 0.01),),
    "elu": (("alpha", 1.0),),
}


def _refined_einsum(operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Any) -> str:
    values = [*args[1:], *kwargs.values()]
    factors = [v for given in values for v in (given if isinstance(given, list | tuple) else [given])]
    return "einsum_of_one" if sum(isinstance(v, Tensor) for v in factors) == 1 else "einsum"


_REFINED: Mapping[str, Callable[..., str]] = {
    "pow": _refined_power,
    "div": _refined_quotient,
    "einsum": _refined_einsum,
    **dict.fromkeys(_RECTIFIERS, _refined_rectifier),
    **dict.fromkeys(("maximum", "max"), _refined_maximum),
    **dict.fromkeys(("index_put", "put", "scatter", "scatter_reduce", "index_reduce"), _refined_accumulation),
}


def is_zero(value: Any) -> bool:
    """Whether an argument is known to be zero."""
    if isinstance(value, Tensor):
        return can_look_at(value) and not bool(value.any())
    return value is not None and value == 0


def writes(func: Known, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that this call writes into, none for a call without such an effect."""
    switch = "inplace" in kwargs or "inplace" in func.operation.parameters
    is_write = func.is_write or (switch and bound(func.operation, args, kwargs, "inplace", False) is True)
    if not (is_write or func.written or "out" in kwargs):
        return []
    if args and is_write and not func.written and "out" not in kwargs and isinstance(args[0], Tensor):
        return [args[0]]  # nearly always
    given = [] if func.written else [kwargs.get("out")]
    for place, name in func.written:
        if name in kwargs:
            given.append(kwargs[name])
        elif place is not None and place < len(args):
            given.append(args[place])
    if is_write:
        given.append(args[0] if args else kwargs.get(_first(func.operation, kwargs)))
    return list(tensors_among(given))


def _first(operation: Operation, kwargs: Mapping[str, Any]) -> str:
    """The keyword by which a call without positional arguments gives its first one."""
    first = (operation.keywords or operation.parameters or ("input",))[0]
    return first if first in kwargs else "input" if "input" in kwargs else "self"


def tensors_among(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_among(value)


def draws_at_random(func: Known, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call's result is drawn at random, so that the same call gives another one."""
    name, operation = func.operation.name, func.operation
    if name == "scaled_dot_product_attention":
        return bound(operation, args, kwargs, "dropout_p", 0.0) != 0
    if name in _DRAW_IN_TRAINING:
        return bool(bound(operation, args, kwargs, "training", _DRAW_IN_TRAINING[name]))
    return name in DRAWS


def _writes_in_place(name: str) -> bool:
    return name == "__setitem__" or name in _AUGMENTED or _is_in_place_name(name)


def _is_in_place_name(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in _NOT_WRITES


class OutOfPlace(NamedTuple):
    """A call without its in-place effect.

    Attributes:
        func, args, kwargs: The call.
        on_copies: Whether it gives the written copies, as a list, beside its result.
        into: Whether the call names where its result goes, as by `out=`.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    on_copies: bool = False
    into: bool = False

    def values(self, out: Any) -> list[Tensor]:
        """What the written names stand for after the call, which gave `out`."""
        if isinstance(out, Tensor):  # nearly always
            return [out]
        return list(tensors_among(out[0] if self.on_copies else [out]))

    def result(self, out: Any) -> Any:
        """What the call itself would have returned."""
        return out[1] if self.on_copies else out


def out_of_place(func: Callable[..., Any], told: Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OutOfPlace:
    """The same call without its in-place effect."""
    operation = told.operation
    if told.written:
        functional = functional_operator(func)
        updates = [place for place, _ in told.written if place is not None]
        # An operator with an underscore has a namesake without; one that updates statistics on the way has none.
        alike = updates == [0] and told.name.endswith("_") if updates else True
        if functional is None or not alike or told.name.removesuffix("_") in DRAWS:
            return OutOfPlace(_on_copies(func), args, kwargs, on_copies=True)
        by_keyword = {name for place, name in told.written if place is None}
        others = {k: v for k, v in kwargs.items() if k not in by_keyword}
        return OutOfPlace(functional, args, others, into=bool(by_keyword))
    into = "out" in kwargs
    kwargs = {k: v for k, v in kwargs.items() if k not in ("out", "inplace")}
    if "inplace" in operation.parameters and len(args) > operation.parameters.index("inplace"):
        args = args[: operation.parameters.index("inplace")]
    if not args and told.is_write:
        args = (kwargs.pop(_first(operation, kwargs)),)
    return OutOfPlace(_functional(func, told.name), args, kwargs, into=into)


@cache
def _functional(func: Callable[..., Any], name: str) -> Callable[..., Any]:
    base = _AUGMENTED.get(name, name[:-1] if _is_in_place_name(name) else name)
    if base == name and name != "__setitem__":
        return func
    for home in () if name == "__setitem__" or base in DRAWS else (Tensor, torch, F):
        if hasattr(home, base):
            return _keep_dtype(getattr(home, base))
    return _on_a_copy(func)


def _keep_dtype(func: Callable[..., Any]) -> Callable[..., Any]:
    """An in-place call keeps the dtype of what it writes into."""

    @wraps(func)
    def same_dtype(target: Any, *args: Any, **kwargs: Any) -> Any:
        out = func(target, *args, **kwargs)
        if not isinstance(target, Tensor):
            return [new.to(old.dtype) for new, old in zip(out, target, strict=True)]
        return out if out.dtype == target.dtype else out.to(target.dtype)

    return same_dtype


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(func)
    def on_a_copy(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # A plain clone of an expanded tensor is dense, so the write below reaches each element once.
        copy = target.clone()
        func(copy, *args, **kwargs)
        return copy

    return on_a_copy


@cache
def _on_copies(func: Callable[..., Any]) -> Callable[..., Any]:
    """An operator that writes into some of its arguments, on copies of them: gives the copies, and its result."""
    written = known(func).written

    @wraps(func)
    def on_copies(*args: Any, **kwargs: Any) -> Any:
        new_args, new_kwargs, copies = list(args), dict(kwargs), []
        for place, name in written:
            given: Any = new_kwargs if name in new_kwargs else new_args
            key: Any = name if name in new_kwargs else place
            if given is new_args and (place is None or place >= len(args)):
                continue
            value = given[key]
            given[key] = [v.clone() for v in value] if isinstance(value, list | tuple) else value.clone()
            copies.append(given[key])
        out = func(*new_args, **new_kwargs)
        return copies, out

    return on_copies
