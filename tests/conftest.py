"""Settings of the whole suite: `--long`, seeds, hypothesis profiles, one thread a test, a fresh Dynamo."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

import funcattr

from . import sweeps
from .sweeps import pytest_addoption as pytest_addoption

# The nets here are tiny: one thread is faster than waking a second, and leaves the other core to other work.
torch.set_num_threads(1)

# Derandomised: CI runs the same examples each time; `--hypothesis-profile=long` searches further.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", derandomize=True, max_examples=20, **_COMMON)
settings.register_profile("long", max_examples=1000, **_COMMON)
settings.load_profile("ci")
# Hypothesis draws constants of the package's modules that are imported: with all of them, examples do not depend on
# which tests ran before.
for _module in pkgutil.walk_packages(funcattr.__path__, "funcattr."):
    importlib.import_module(_module.name)


_SEED = "_ = __import__('torch').manual_seed(0)\n"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose among the sweeps, and let the package's examples draw the same networks whatever ran before."""
    sweeps.pytest_collection_modifyitems(config, items)
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.dtest.examples.insert(0, doctest.Example(_SEED, ""))


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Compile from nothing, and leave nothing compiled behind."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
