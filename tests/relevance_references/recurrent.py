"""`torch.lstm` and `torch.gru` unrolled, a step at a time, in torch functions that are handled in turn."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .walk import Call, Walk

States = tuple[Tensor, ...]
Step = Callable[[Tensor, States, list[Tensor]], States]


def lstm(walk: Walk, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    x, states, *options = call.args
    with walk:
        out, (hidden, cell) = _unrolled(_lstm_step, x, tuple(states), *options)
    return out, hidden, cell


def gru(walk: Walk, call: Call) -> tuple[Tensor, Tensor]:
    x, hidden, *options = call.args
    with walk:
        out, (hidden,) = _unrolled(_gru_step, x, (hidden,), *options)
    return out, hidden


def _pre_activations(x: Tensor, hidden: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    w, u, b, c = weights
    return F.linear(x, w, b), F.linear(hidden, u, c)


def _lstm_step(x: Tensor, states: States, weights: list[Tensor]) -> States:
    hidden, cell = states
    from_x, from_hidden = _pre_activations(x, hidden, weights)
    i, f, g, o = torch.chunk(from_x + from_hidden, 4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(x: Tensor, states: States, weights: list[Tensor]) -> States:
    (hidden,) = states
    from_x, from_hidden = _pre_activations(x, hidden, weights)
    (rx, zx, nx), (rh, zh, nh) = torch.chunk(from_x, 3, -1), torch.chunk(from_hidden, 3, -1)
    new = (nx + (rx + rh).sigmoid() * nh).tanh()
    update = zx + zh
    return ((-update).sigmoid() * new + update.sigmoid() * hidden,)  # 1 - sigmoid(a) = sigmoid(-a) is a gate too


def _unrolled(
    step: Step,
    x: Tensor,
    states: States,  # each [layers * directions, N, hidden]
    flat_weights: list[Tensor],
    bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, States]:
    assert bias and not (train and dropout)
    x = x.transpose(0, 1) if batch_first else x
    directions = 2 if bidirectional else 1
    last: list[States] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            weights, state = list(flat_weights[4 * k : 4 * k + 4]), tuple(s[k] for s in states)
            times: Any = range(len(x))[:: -1 if direction else 1]
            at: dict[int, Tensor] = {}
            for time in times:
                state = step(x[time], state, weights)
                at[time] = state[0]
            outputs.append(torch.stack([at[time] for time in range(len(x))]))
            last.append(state)
        x = torch.cat(outputs, -1)
    out = x.transpose(0, 1) if batch_first else x
    return out, tuple(torch.stack(each) for each in zip(*last))
