"""What TorchRay's backpropagation methods share, as `torchray.attribution.common`."""

from typing import Any

from .... import FuncattrError
from .contexts import NullContext as NullContext
from .contexts import ReLUContext as ReLUContext
from .driver import saliency as saliency
from .probes import Probe as Probe
from .probes import attach_debug_probes as attach_debug_probes
from .probes import get_module as get_module
from .seeds import get_backward_gradient as get_backward_gradient
from .seeds import get_pointing_gradient as get_pointing_gradient
from .seeds import gradient_to_saliency as gradient_to_saliency
from .seeds import resize_saliency as resize_saliency


class Patch:
    """Refused: it replaces a function of a module for all threads."""

    def __init__(self, target: str, new_callable: Any) -> None:
        raise FuncattrError(
            f"Patch({target!r}, ...): funcattr patches no function. Give a rulebook, funcattr.attribute(model, x, "
            "target, rules={'relu': my_rule}), or a ReLUContext; to patch all the same there is unittest.mock.patch."
        )
