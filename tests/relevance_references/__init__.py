"""Slow references of whole-model relevance, on plain autograd. They share no code with funcattr."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from .gradient_space import attnlrp_reference as attnlrp_reference
from .gradient_space import cp_lrp_reference as cp_lrp_reference
from .linear_rules import LinearMap as LinearMap
from .relevance_space import Composite as Composite
from .relevance_space import composites as composites
from .relevance_space import lrp_reference as lrp_reference
from .walk import UnknownOperationError as UnknownOperationError

REFERENCES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Any], Tensor]] = {
    **{name: partial(lrp_reference, composite=name) for name in composites()},
    "attnlrp": attnlrp_reference,
    "cp_lrp": cp_lrp_reference,
}
"""All of them by name: (function, x, target) -> relevance of x."""
