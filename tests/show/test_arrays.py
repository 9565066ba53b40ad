"""Numbers of any kind as arrays, or an error that says where they are not finite."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr.show.arrays import as_array, finite


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.uint8]
)
def test_tensors_of_any_dtype_keep_their_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 2], [3, 4]], dtype=dtype)
    assert finite("f", "x", values).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (as_array("f", "x", values).dtype.kind == "f") == dtype.is_floating_point


def test_what_a_tensor_drags_along_stays_behind() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True) * 1
    assert finite("f", "x", values).tolist() == [1.0, -2.0]
    negative = torch.tensor([1 + 2j]).conj().imag
    assert negative.is_neg() and finite("f", "x", negative).tolist() == [-2.0]
    assert finite("f", "x", [1, 2.5]).tolist() == [1.0, 2.5]


def test_a_list_of_tensors_is_as_good_as_one() -> None:
    parts = [torch.ones(2, requires_grad=True), torch.zeros(2, dtype=torch.bfloat16)]
    assert finite("f", "x", parts).tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (torch.tensor([[0.0, 1.0], [float("nan"), float("nan")]]), ValueError,
         r"^f\(x=\.\.\.\): expected finite numbers, got nan at \[1, 0\], and 2 such of 4\. Shape \[2, 2\]\.$"),
        (np.array([0.0, np.inf]), ValueError,
         r"^f\(x=\.\.\.\): expected finite numbers, got inf at \[1\], and 1 such of 2"),
        (torch.tensor([1j]).conj(), TypeError, r"^f\(x=\.\.\.\): expected real numbers, got complex64"),
        (["a"], TypeError, r"^f\(x=\.\.\.\): expected real numbers, got <U1"),
        ([None], TypeError, r"expected real numbers, got object"),
        ([[1.0], [1.0, 2.0]], TypeError, r"^f\(x=\.\.\.\): expected numbers in rows of one length, got a list"),
        ((torch.zeros(2), torch.zeros(3)), TypeError, r"expected numbers in rows of one length"),
    ],
)  # fmt: skip
def test_what_is_no_finite_number_is_refused(values: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        finite("f", "x", values)
