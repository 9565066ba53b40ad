"""What torch itself gets wrong, shown on torch alone: when one of these fails, its exception elsewhere can go."""

import torch
import torch.nn.functional as F


def test_backward_of_instance_norm_is_wrong_for_a_permuted_cotangent() -> None:
    """The reason of KNOWN_UPSTREAM in test_contract: one cotangent in another layout gives another gradient."""
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
