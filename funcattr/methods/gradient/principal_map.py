"""Features along their first right singular vector, with its sign."""

import math

import torch
from torch import Tensor

from ..features import over_positions


def principal_map(features: Tensor, relu: bool) -> Tensor:
    """sum_c v_c h_cu, v the first right singular vector nearest to ones. [N, C, *spatial] -> [N, 1, *spatial]

    It is computed without singular vectors, whose derivative is NaN where singular values tie, as with dead channels.
    """
    h = over_positions(features)
    size = h.abs().amax((1, 2), keepdim=True).detach()  # the map is homogeneous in h: only powers must not underflow
    h = h / torch.where(size == 0, 1, size)
    total, tiny = h.sum(1, keepdim=True), 1024 * torch.finfo(h.dtype).eps
    if h.shape[1] <= h.shape[2]:
        direction = first_space(h @ h.mT).sum(1, keepdim=True) @ h
    else:
        direction = total @ first_space(h.mT @ h)
    length = torch.linalg.vector_norm(direction, dim=2, keepdim=True)
    direction = direction / torch.where(length == 0, 1, length)
    largest = torch.linalg.vector_norm(h @ direction.mT, dim=1, keepdim=True)  # the singular value
    decided = length > tiny * math.sqrt(h.shape[1]) * largest
    found = torch.where(decided | length.isnan(), size * largest * direction, 0)
    found = found.reshape(len(h), 1, *features.shape[2:]).to(features.dtype)
    return found.clamp(min=0) if relu else found


def first_space(gram: Tensor) -> Tensor:
    """The projector on the eigenvectors of the largest eigenvalue, divided by their number. [N, n, n]

    It is the limit of the powers, each divided by its trace. They end where eigenvalues that rounding cannot tell apart
    still tie.
    """
    for _ in range(-math.frexp(torch.finfo(gram.dtype).eps)[1] - 2):
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        gram = gram / torch.where(trace == 0, 1, trace)
        gram = gram @ gram
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return gram / torch.where(trace == 0, 1, trace)
