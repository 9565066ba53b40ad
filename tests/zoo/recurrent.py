"""Recurrent classifiers of text, over embedded tokens."""

import torch
from torch import Tensor, nn


class LSTMClassifier(nn.Module):
    """Two bidirectional layers; the label is read off the last states of both directions. [N, T, width] -> [N, C]"""

    def __init__(self, width: int = 8, hidden: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.project = nn.Linear(width, 6)
        self.lstm = nn.LSTM(6, hidden, num_layers=2, batch_first=True, dropout=0.2, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.lstm(self.project(x))
        return self.head(torch.cat([state[-2], state[-1]], dim=1))


class GRUClassifier(nn.Module):
    """Two bidirectional layers; the label is read off the mean over tokens. [N, T, width] -> [N, C]"""

    def __init__(self, width: int = 8, hidden: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.tokens = nn.Linear(2 * hidden, 6)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.gru(x)
        return self.head(torch.relu(self.tokens(out)).mean(dim=1))
