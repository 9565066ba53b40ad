"""Measures of attributions: do they sum to the rise they explain, and do maps point at what they should?

Imports `attribution` and `sampling`.
"""

from .boxes import energy_in_box as energy_in_box
from .boxes import mass_in_box as mass_in_box
from .boxes import pointing_game as pointing_game
from .completeness import completeness as completeness
