"""What funcattr's own suite proves, for a rule, a rulebook, a method or a model of yours, in three lines of pytest.

    from funcattr.testing import check_method

    def test_my_method():
        check_method(my_method)

Each check raises an `AssertionError` that says what does not hold. They need hypothesis, which comes with
`pip install '.[testing]'` in a clone.
"""

from .checks import check_method, check_model, check_rule, check_rulebook
from .comparison import assert_equal, loop
from .networks import Network, inputs, layers, networks, targets

__all__ = [
    "Network",
    "assert_equal",
    "check_method",
    "check_model",
    "check_rule",
    "check_rulebook",
    "inputs",
    "layers",
    "loop",
    "networks",
    "targets",
]
