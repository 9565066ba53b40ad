"""A rule finds an argument by its name, in whatever order the function that the model called takes them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr.calls.operations import OPERATIONS, known

from ..contract import assert_equal

HOMES = {"Tensor": Tensor, "torch": torch, "F": F, "special": torch.special, "aten": torch.ops.aten}


DRAWS = torch.Generator().manual_seed(0)  # of its own: what other modules draw at their import is no matter here


def t(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=DRAWS) + 0.1


def norm(**more: Any) -> dict[str, Any]:
    return {"input": t(2, 4, 3), "weight": t(4), "bias": t(4), "running_mean": t(4), "running_var": t(4), **more}


def conv(n: int, **more: Any) -> dict[str, Any]:
    sizes = {"input": t(2, 4, *[5] * n), "weight": t(4, 2, *[2] * n), "bias": t(4), "stride": 2, "padding": 1}
    return {**sizes, "dilation": 1, "groups": 2, **more}


POOL: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "batch_norm": norm(training=False, momentum=0.3, eps=0.2, cudnn_enabled=False),
    "instance_norm": norm(use_input_stats=False, momentum=0.3, eps=0.2, cudnn_enabled=False),
    "layer_norm": {"input": t(2, 4), "normalized_shape": [4], "weight": t(4), "bias": t(4), "eps": 0.2},
    "group_norm": {"input": t(2, 4, 3), "num_groups": 2, "weight": t(4), "bias": t(4), "eps": 0.2},
    "rms_norm": {"input": t(2, 4), "normalized_shape": [4], "weight": t(4), "eps": 0.2},
    "linear": {"input": t(2, 4), "weight": t(3, 4), "bias": t(3)},
    **{f"conv{n}d": conv(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv(n, bias=t(4), output_padding=1) for n in (1, 2, 3)},
    "matmul": {"input": t(1, 3, 3)[0], "other": t(3, 3)},
    "addmm": {"input": t(3, 3), "mat1": t(3, 3), "mat2": t(3, 3)},
    "grouped_mm": {
        "input": t(4, 4).float(),
        "mat2": t(2, 4, 4).float(),
        "offs": torch.tensor([1, 4], dtype=torch.int32),
    },
    **{name: {"input": t(3), "other": t(3) + 2} for name in ("add", "sub", "rsub", "mul", "div", "rdiv")},
    "pow": {"input": t(3), "exponent": 3.0},
    "prelu": {"input": -t(3), "weight": t(1)},
    "embedding": {"input": torch.tensor([1, 0]), "weight": t(3, 2)},
    "hardtanh": {"input": t(9), "min_val": 0.2, "max_val": 0.8},
    "threshold": {"input": t(9), "threshold": 0.5, "value": 0.3},
    "clamp": {"input": t(9), "min": 0.2, "max": 0.8},
    "clamp_min": {"input": t(9), "min": 0.2},
    "leaky_relu": {"input": -t(3), "negative_slope": 0.3},
    "elu": {"input": -t(3), "alpha": 0.3},
    "celu": {"input": -t(3), "alpha": 0.3},
    "rrelu": {"input": -t(3), "lower": 0.3, "upper": 0.7, "training": False},
    "softplus": {"input": t(3), "beta": 2.0, "threshold": 1.0},
    "glu": {"input": t(4, 4), "dim": 0},
    "dropout": {"input": t(4), "p": 0.3, "training": False},
    "alpha_dropout": {"input": t(4), "p": 0.3, "training": False},
    **{f"max_pool{n}d": {"input": t(2, 4, *[6] * n), **POOL} for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": {"input": t(2, 4, *[6] * n), "output_size": [2] * n} for n in (1, 2, 3)},
    "softmax": {"input": t(3, 4), "dim": 0},
    "log_softmax": {"input": t(3, 4), "dim": 0},
    "logsumexp": {"input": t(3, 4), "dim": [0], "keepdim": True},
    "scaled_dot_product_attention": {
        "query": t(1, 2, 3, 4),
        "key": t(1, 2, 5, 4),
        "value": t(1, 2, 5, 4),
        "attn_mask": t(3, 5),
        "dropout_p": 0.0,
        "is_causal": False,
    },
    "normalize": {"input": t(3, 4), "p": 3.0, "dim": 0, "eps": 0.1},
    "local_response_norm": {"input": t(2, 4, 3), "size": 3, "alpha": 0.3, "beta": 0.6, "k": 2.0},
    "cat": {"tensors": [t(3, 4), t(3, 4)], "dim": 1},
    "stack": {"tensors": [t(3, 4), t(3, 4)], "dim": 1},
    "pad": {"input": t(3, 4), "pad": [1, 2], "mode": "constant", "value": 0.4},
    **{
        name: {"input": t(3), "other": t(3) + 2}
        for name in ("atan2", "copysign", "fmod", "remainder", "logaddexp", "logaddexp2", "maximum", "xlogy", "xlog1py")
    },
    "linalg_vecdot": {"input": t(3), "other": t(3)},
    "ldexp": {"input": t(3), "other": torch.tensor([1, 2, 3])},
    "cholesky_solve": {"input": t(3, 2), "input2": t(3, 3).tril() + torch.eye(3)},
    "linalg_solve": {"A": t(3, 3) + torch.eye(3), "B": t(3, 2)},
    "embedding_bag": {"input": torch.tensor([[1, 0]]), "weight": t(3, 2)},
    "index_put": {"input": t(3), "indices": [torch.tensor([0, 2])], "values": t(2), "accumulate": True},
    "put": {"input": t(3), "index": torch.tensor([0, 2]), "source": t(2), "accumulate": True},
    "masked_fill": {"input": t(3), "mask": torch.tensor([True, False, True]), "value": 0.4},
    "where": {"condition": torch.tensor([True, False, True]), "input": t(3), "other": t(3)},
    "scatter": {"input": t(3), "dim": 0, "index": torch.tensor([0, 2]), "src": t(2), "reduce": "add"},
    "scatter_reduce": {
        "input": t(3),
        "dim": 0,
        "index": torch.tensor([0, 2]),
        "src": t(2),
        "reduce": "amax",
        "include_self": False,
    },
    "index_reduce": {
        "input": t(3),
        "dim": 0,
        "index": torch.tensor([0, 2]),
        "source": t(2),
        "reduce": "amax",
        "include_self": False,
    },
}
"""An argument for each name in the operations table whose place may differ between spellings."""
BY_POSITION_ALONE = {"einsum", "rmatmul", "linalg_lu_solve", "lu_solve", "linalg_solve_triangular", "grid_sample"}
TOLD_BY_ARGUMENTS = {
    "einsum_of_one",
    "function",
    "pow_by_a_tensor",
    "rounded_div",
    "scatter_mean",
    "scatter_reduce_prod",
}
"""Operations that no function spells: calls of other functions are found to be one."""
NOTHING_TO_MIX_UP = {"relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid", "gelu", "sigmoid", "tanh"} | {
    *("logsigmoid", "rpow", "neg", "abs", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"),
}


def spellings() -> Iterator[tuple[str, Callable[..., Any]]]:
    for spelling in OPERATIONS:
        for place, home in HOMES.items():
            for name in (spelling, f"{spelling}_"):
                function = getattr(home, name, None)
                if function is not None:
                    yield f"{place}.{name}", function
                for overload in function.overloads() if place == "aten" and function is not None else ():
                    yield f"{place}.{name}.{overload}", getattr(function, overload)


def fresh(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else [*map(fresh, value)] if isinstance(value, list) else value


def by_position_and_by_keyword(function: Callable[..., Any]) -> tuple[Any, Any] | None:
    """What a function gives, its arguments in the order that the recorder believes in, and by its own keywords."""
    operation = known(function).operation
    given = ARGUMENTS[operation.name]
    names = [name for name in operation.parameters if name in given]
    own = dict(zip(operation.parameters, operation.keywords or operation.parameters, strict=True))
    in_order = operation.parameters[: len(names)] == tuple(names)
    if not in_order or len(names) < 2:
        return None
    try:
        by_keyword = function(**{own[name]: fresh(given[name]) for name in names})
    except (TypeError, RuntimeError):  # an operator such as `+`, or an overload for other types
        return None
    return function(*(fresh(given[name]) for name in names)), by_keyword


def test_each_spelling_takes_its_arguments_in_the_order_that_the_recorder_believes_in() -> None:
    compared: dict[str, list[str]] = {}
    for name, function in spellings():
        operation = known(function).operation.name
        if operation in BY_POSITION_ALONE | NOTHING_TO_MIX_UP | TOLD_BY_ARGUMENTS:
            continue
        both = by_position_and_by_keyword(function)
        if both is not None:
            torch.testing.assert_close(both[0], both[1])
            compared.setdefault(operation, []).append(name)
    assert sum(map(len, compared.values())) > 100
    assert set(compared) >= set(ARGUMENTS) - {
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "rdiv",
        "glu",
        "dropout",
        "xlog1py",
        "linalg_vecdot",
    }


def test_every_row_of_the_table_is_tried() -> None:
    assert {operation.name for operation in OPERATIONS.values()} == (
        {*ARGUMENTS} | BY_POSITION_ALONE | NOTHING_TO_MIX_UP | TOLD_BY_ARGUMENTS
    )


x, mean, variance, weight, bias = t(3, 4, 6, 6) - 0.6, t(4), t(4) + 0.5, t(4) - 0.5, t(4)
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "torch.batch_norm": (
        lambda x: torch.batch_norm(x, weight, bias, mean, variance, False, 0.1, 1e-5, False),
        lambda x: F.batch_norm(x, mean, variance, weight, bias, False),
    ),
    "aten.batch_norm": (
        lambda x: torch.ops.aten.batch_norm.default(x, weight, bias, mean, variance, False, 0.1, 1e-5, False),
        lambda x: F.batch_norm(x, mean, variance, weight, bias, False),
    ),
    "aten.batch_norm of the packet": (
        lambda x: torch.ops.aten.batch_norm(x, weight, bias, mean, variance, False, 0.1, 1e-5, False),
        lambda x: F.batch_norm(x, mean, variance, weight, bias, False),
    ),
    "torch.instance_norm": (
        lambda x: torch.instance_norm(x, weight, bias, None, None, True, 0.1, 1e-5, False),
        lambda x: F.instance_norm(x, None, None, weight, bias, True),
    ),
    "torch.layer_norm": (
        lambda x: torch.layer_norm(x, [6], weight.repeat(2)[:6], bias.repeat(2)[:6], 0.1, False),
        lambda x: F.layer_norm(x, (6,), weight.repeat(2)[:6], bias.repeat(2)[:6], 0.1),
    ),
    "torch.group_norm": (
        lambda x: torch.group_norm(x, 2, weight, bias, 0.1, False),
        lambda x: F.group_norm(x, 2, weight, bias, 0.1),
    ),
    "aten.mm by keyword": (
        lambda x: torch.ops.aten.mm.default(self=x[:, 0].flatten(1), mat2=torch.ones(36, 2).double()),
        lambda x: torch.matmul(x[:, 0].flatten(1), torch.ones(36, 2).double()),
    ),
    "aten.addmm by keyword": (
        lambda x: torch.ops.aten.addmm.default(mat2=torch.ones(36, 4).double(), self=bias, mat1=x[:, 0].flatten(1)),
        lambda x: torch.addmm(bias, x[:, 0].flatten(1), torch.ones(36, 4).double()),
    ),
}


@pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives:UserWarning")  # values are random
@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "attnlrp"])
@pytest.mark.parametrize("name", NORMS)
def test_rules_read_the_right_arguments_of_each_spelling(name: str, book: str) -> None:
    one, two = NORMS[name]
    maps = [funcattr.lrp(lambda x, f=f: f(x).flatten(1)[:, :2] * 3, x, 1, rules=book) for f in (one, two)]
    assert maps[1].any()
    assert_equal(*maps)
