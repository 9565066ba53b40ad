"""What torch itself gets wrong, shown on torch alone: when one of these fails, its exception elsewhere can go."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def test_backward_of_instance_norm_is_wrong_for_a_permuted_cotangent() -> None:
    """The reason of KNOWN_UPSTREAM in funcattr.testing: one cotangent in another layout gives another gradient."""
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    y = F.instance_norm(x)
    permuted = torch.randn(1, 2, 2, 2, dtype=torch.float64).permute(0, 3, 1, 2)
    direction, step = torch.randn_like(x), 1e-6
    with torch.no_grad():
        ahead, behind = F.instance_norm(x + step * direction), F.instance_norm(x - step * direction)
    difference = ((ahead - behind) * permuted).sum() / (2 * step)
    wrong = (torch.autograd.grad(y, x, permuted, retain_graph=True)[0] * direction).sum()
    right = (torch.autograd.grad(y, x, permuted.contiguous())[0] * direction).sum()
    torch.testing.assert_close(right, difference, rtol=1e-5, atol=1e-6)
    assert (wrong - difference).abs() > 1e-3


def test_vmap_refuses_group_norm_of_a_permuted_tensor() -> None:
    """The other reason: the model alone cannot be mapped."""

    def normed(x: Tensor) -> Tensor:
        return F.group_norm(F.linear(x.movedim(1, -1), torch.ones(1, 1)).movedim(-1, 1), 1)

    with pytest.raises(RuntimeError, match="NYI: querying is_contiguous inside of vmap"):
        torch.vmap(normed)(torch.randn(3, 1, 1, 2, 2))
