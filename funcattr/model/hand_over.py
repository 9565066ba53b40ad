"""The output of a folded layer on its way to the batch norm after it; any other reader raises."""

from typing import Any

from torch import Tensor

from .._torch import pytree
from ..errors import FuncattrError


class ReadError(FuncattrError):
    """The output of a folded layer is read by something else than its batch norm."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        super().__init__(
            f"fold_batch_norm: on this input the model reads the output of {layer!r} in another way than by the batch "
            "norm that is folded into it, which on the example it did not. Use the model as it is."
        )


class Handed:
    """The output of a layer with its batch norm folded in, which only that batch norm may read."""

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
