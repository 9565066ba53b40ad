"""Measures of attributions: do they sum to the rise they explain, does the model need what they say that it needs,
and do maps point at what they should?

Imports `attribution`, `sampling` and `methods`.
"""

from .as_quantus import as_quantus as as_quantus
from .boxes import energy_in_box as energy_in_box
from .boxes import mass_in_box as mass_in_box
from .boxes import pointing_game as pointing_game
from .completeness import completeness as completeness
from .degradation import Curve as Curve
from .degradation import area_between as area_between
from .degradation import deletion as deletion
from .degradation import insertion as insertion
from .infidelity import infidelity as infidelity
from .max_sensitivity import max_sensitivity as max_sensitivity
from .randomization import Randomization as Randomization
from .randomization import randomization as randomization
from .randomization_entropy import randomization_entropy as randomization_entropy
from .sensitivity_n import sensitivity_n as sensitivity_n
