"""Measures of attributions: do they sum to the rise they explain, does the model need what they say that it needs,
and do maps point at what they should?

Imports `model`, `attribution`, `sampling` and `methods`.
"""

from . import datasets as datasets
from .as_quantus import as_quantus as as_quantus
from .completeness import completeness as completeness
from .complexity import complexity as complexity
from .degradation import Curve as Curve
from .degradation import area_between as area_between
from .degradation import deletion as deletion
from .degradation import insertion as insertion
from .greedy_order import greedy_order as greedy_order
from .impute import impute as impute
from .infidelity import infidelity as infidelity
from .max_sensitivity import max_sensitivity as max_sensitivity
from .mean_by_class import mean_by_class as mean_by_class
from .randomization import Randomization as Randomization
from .randomization import randomization as randomization
from .randomization_entropy import randomization_entropy as randomization_entropy
from .regions import energy_in_region as energy_in_region
from .regions import mass_in_region as mass_in_region
from .regions import pointing_game as pointing_game
from .sensitivity_n import sensitivity_n as sensitivity_n
from .single_deletion import single_deletion as single_deletion
from .sparseness import sparseness as sparseness
