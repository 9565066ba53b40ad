"""What a layer gives to the batch norm that is folded into it, and to nobody else."""

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from .errors import FuncattrError


class ReadError(FuncattrError):
    """Something else than its batch norm reads the output of a folded layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        super().__init__(
            f"fold_batch_norm: on this input the model reads the output of {layer!r} in another way than by the batch "
            "norm that is folded into it, which on the example it did not. Use the model as it is."
        )


class Handed:
    """The output of a layer with its batch norm, on the way there: nobody else may look at it."""

    def __init__(self, value: Tensor, layer: str) -> None:
        self.value, self.layer = value, layer

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handed = next(v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, cls))
        raise ReadError(handed.layer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ReadError(self.layer)


def _refuse(self: Handed, *_: Any) -> Any:
    raise ReadError(self.layer)


for _name in (
    *("add sub mul truediv floordiv mod pow matmul and or xor".split()),
    *("radd rsub rmul rtruediv rpow rmatmul iadd isub imul itruediv neg abs invert lt le gt ge eq ne".split()),
    *("getitem setitem len iter bool float int index contains".split()),
):
    setattr(Handed, f"__{_name}__", _refuse)


def refuse_handed(output: Any) -> Any:
    """The output of a model, none of whose parts may be handed over."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Handed):
            raise ReadError(leaf.layer)
    return output
