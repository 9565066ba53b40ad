"""Pictures and coloured text of attributions, from tensors or arrays. Pictures need matplotlib, the extra "plot"."""

from .bars import bars as bars
from .curves import curves as curves
from .grid import grid as grid
from .history import history as history
from .overlay import overlay as overlay
from .report import report as report
from .series import series as series
from .tokens import ColoredTokens as ColoredTokens
from .tokens import tokens as tokens
