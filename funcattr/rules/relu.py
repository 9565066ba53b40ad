"""Rules of the ReLU family: what goes back through a rectifier.

Every spelling of relu is meant (`F.relu`, `x.relu_()`, `clamp(min=0)`, relu6, `hardtanh(0, b)`). Where a rectifier has
an upper bound b, the guided rule keeps the ordinary factor 1[x < b]; deconvnet ignores x altogether.
"""

import torch
from torch import Tensor

from ..calls.call import Call
from ..calls.declarations import giving_own, output_only, writing_over
from ..calls.inplace import rectified, relu_adjoint, threshold_backward
from ..calls.origins import upper_bound
from .parametric import rule


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta_smooth(beta={beta!r}): expected a sharpness above 0.")


def _guided_over(call: Call, own: Tensor) -> Tensor:
    bound = upper_bound(call)
    if bound is not None:
        own = torch.where(call.output < bound, own, 0)
    return torch.relu_(relu_adjoint(own, call.output))


@giving_own
@writing_over(_guided_over)
@output_only
def guided(call: Call, p: Tensor) -> Tensor:
    """Guided backpropagation: p 1[x > 0] 1[p > 0] (Springenberg et al., 2015, arXiv:1412.6806, section 3.4)."""
    bound = upper_bound(call)
    if bound is not None:
        p = torch.where(call.output < bound, p, 0)
    # y > 0 where x > 0, so the output alone tells. This is relu's own adjoint; its result is ours to write into.
    return torch.relu_(threshold_backward(p, call.output, 0))


@giving_own
@writing_over(lambda call, own: rectified(own))
@output_only
def deconvnet(call: Call, p: Tensor) -> Tensor:
    """Deconvolution: max(p, 0), whatever x was (Zeiler and Fergus, 2014, arXiv:1311.2901, section 2.1)."""
    return p.clamp(min=0)


@rule(_check_beta)
def beta_smooth(call: Call, p: Tensor, *, beta: float = 10.0) -> Tensor:
    """The derivative of a softplus in place of relu's: p sigmoid(beta x).

    Args:
        beta: Sharpness, in units of 1 / x; relu's own derivative at infinity.

    References:
        Dombrowski et al., 2019, arXiv:1906.07983, section 4.1.
    """
    return p * torch.sigmoid(beta * call.operands[0])
