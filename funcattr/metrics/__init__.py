"""Measures of attributions: do they sum to the rise they explain, does the model need what they say that it needs,
and do maps point at what they should?

Imports `attribution`, `sampling` and `methods`.
"""

from .boxes import energy_in_box as energy_in_box
from .boxes import mass_in_box as mass_in_box
from .boxes import pointing_game as pointing_game
from .completeness import completeness as completeness
from .complexity import complexity as complexity
from .degradation import Curve as Curve
from .degradation import area_between as area_between
from .degradation import deletion as deletion
from .degradation import insertion as insertion
from .impute import impute as impute
from .infidelity import infidelity as infidelity
from .max_sensitivity import max_sensitivity as max_sensitivity
from .randomization import Randomization as Randomization
from .randomization import randomization as randomization
from .sensitivity_n import sensitivity_n as sensitivity_n
from .single_deletion import single_deletion as single_deletion
from .sparseness import sparseness as sparseness
