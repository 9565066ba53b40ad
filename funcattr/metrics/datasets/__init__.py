"""Data whose answer is known: a model, inputs, and where or how much each input matters."""

from .closed_forms import Exact as Exact
from .closed_forms import additive as additive
from .closed_forms import linear as linear
from .closed_forms import product as product
from .deciding_word import deciding_word as deciding_word
from .digits import digits as digits
from .located import Located as Located
from .photos import photos as photos
from .trigger import trigger as trigger
