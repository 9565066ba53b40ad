"""Functions run by form: results have the forms that torch gives them, and nobody gets more than that."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from funcattr.methods.bottleneck.by_form import ByForm, Form, ValuesNeededError, form_of
from funcattr.testing.seeding import uniform

CPU = torch.device("cpu")
X, WEIGHT = uniform(2, 3, 8, 8).float(), uniform(4, 3, 3, 3).float()
KEPT = torch.zeros_like(X)
FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "convolution": lambda x: F.conv2d(x, WEIGHT, stride=2),
    "pooling": lambda x: F.max_pool2d(x, 2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "view": lambda x: x.flatten(1)[:, ::2].T,
    "in place": lambda x: x.exp().relu_().add_(1),
    "several": lambda x: x.split(1, dim=1)[1],
    "product": lambda x: x.flatten(1) @ x.flatten(1).T,
    "another dtype": lambda x: x.half(),
    "softmax": lambda x: x.softmax(-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
}


class Mode(torch.overrides.TorchFunctionMode):
    """Every torch function by form."""

    def __init__(self) -> None:
        super().__init__()
        self.by_form = ByForm(CPU)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.by_form.run(func, args, kwargs or {})[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_have_their_forms(name: str) -> None:
    right = FUNCTIONS[name](X)
    with Mode() as mode:
        found = FUNCTIONS[name](X)
    assert type(found) is Form and mode.by_form.is_enough
    assert (found.shape, found.stride(), found.dtype, found.device) == (
        *(right.shape, right.stride(), right.dtype, right.device),
    )


ASKING: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda form: form.sum().item(),
    "memory": lambda form: form.data_ptr(),
    "strides": lambda form: form.stride(),
    "indices": lambda form: form.nonzero(),
    "a write into a real tensor": lambda form: KEPT.add_(form),
    "another thread": lambda form: ThreadPoolExecutor(1).submit(lambda: form + 1).result(),
    "reshaped in place": lambda form: form.flatten(1).t_(),
}


@pytest.mark.parametrize("name", ASKING)
def test_what_asks_for_more_is_noted_whatever_becomes_of_the_error(name: str) -> None:
    with Mode() as mode:
        form = X.exp()
        with pytest.raises((ValuesNeededError, RuntimeError)):
            ASKING[name](form)
    assert not mode.by_form.is_enough


def test_values_are_real_where_nothing_was_run_by_form() -> None:
    assert form_of(X) is None
    with pytest.raises(ValuesNeededError):
        ByForm(CPU).run(torch.exp, (X.clone().requires_grad_(),), {})
