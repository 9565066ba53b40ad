"""Recurrent layers in simpler operations, step by step: `decompose` these in a rulebook.

Written so that every gate comes straight out of a sigmoid, by which the rule for products knows it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedOperationError

State = tuple[Tensor, ...]
Cell = Callable[..., State]


def lstm_cell(
    input: Tensor, hx: State, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> State:
    """One step of an LSTM. [N, F], 2 x [N, H] -> (h, c), each [N, H]"""
    h, c = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    enter, forget, new, leave = gates.chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(c), c


def gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step of a GRU. [N, F], [N, H] -> [N, H]"""
    reset_x, keep_x, new_x = F.linear(input, w_ih, b_ih).chunk(3, -1)
    reset_h, keep_h, new_h = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    keep = keep_x + keep_h
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return torch.sigmoid(keep) * hx + torch.sigmoid(-keep) * new


def rnn_tanh_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step of an Elman network. [N, F], [N, H] -> [N, H]"""
    return torch.tanh(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))


def rnn_relu_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """The same with a relu."""
    return torch.relu(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))


def _with_state(cell: Callable[..., Tensor]) -> Cell:
    """A cell whose state is its output, in the form of one that has several."""
    return lambda input, state, *weights: (cell(input, state[0], *weights),)


def lstm(input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm`, unrolled."""
    _refuse_packed("lstm", hx, params)
    out, states = _layers(lstm_cell, input, tuple(hx), params, *options, **named)
    return out, states[0], states[1]


def gru(input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """`torch.gru`, unrolled."""
    return _simple("gru", gru_cell, input, hx, params, *options, **named)


def rnn_tanh(input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """`torch.rnn_tanh`, unrolled."""
    return _simple("rnn_tanh", rnn_tanh_cell, input, hx, params, *options, **named)


def rnn_relu(input: Tensor, hx: Any, params: Any, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """`torch.rnn_relu`, unrolled."""
    return _simple("rnn_relu", rnn_relu_cell, input, hx, params, *options, **named)


def _simple(
    name: str, cell: Callable[..., Tensor], input: Tensor, hx: Any, params: Any, *options: Any, **named: Any
) -> tuple[Tensor, Tensor]:
    _refuse_packed(name, hx, params)
    out, states = _layers(_with_state(cell), input, (hx,), params, *options, **named)
    return out, states[0]


def _refuse_packed(name: str, hx: Any, params: Any) -> None:
    # Called for a packed sequence, these take its batch sizes second and the state third.
    if isinstance(params, Tensor) or isinstance(hx, Tensor) is (name == "lstm"):
        raise UnsupportedOperationError(
            f"{name}: a packed sequence has no rule. Pad the sequences, and explain a batch of equal lengths."
        )


def _layers(
    cell: Cell,
    x: Tensor,
    first: State,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, State]:
    """All layers and directions. Weights come in the order of `nn.LSTM`'s: by layer, then by direction."""
    x = x.transpose(0, 1) if batch_first else x
    directions, each = (2 if bidirectional else 1), (4 if has_biases else 2)
    width = len(params) // (num_layers * directions)
    if width != each:
        raise UnsupportedOperationError(
            "lstm(proj_size=...): projections have no rule; build the cell from linear layers."
        )
    finals: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            state = tuple(part[k] for part in first)
            weights = params[k * each : (k + 1) * each]
            hidden, state = _sequence(cell, x.flip(0) if direction else x, state, weights)
            outputs.append(hidden.flip(0) if direction else hidden)
            finals.append(state)
        x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        x = F.dropout(x, dropout, train) if layer < num_layers - 1 else x
    last = tuple(torch.stack([state[i] for state in finals]) for i in range(len(first)))
    return (x.transpose(0, 1) if batch_first else x), last


def _sequence(cell: Cell, x: Tensor, state: State, weights: Any) -> tuple[Tensor, State]:
    hidden = []
    for step in x.unbind(0):
        state = cell(step, state, *weights)
        hidden.append(state[0])
    return torch.stack(hidden), state
