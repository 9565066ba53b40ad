"""Benchmarks run only when asked for by their path: `python -m pytest tests/benchmarks`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out unless the command names it."""
    asked = any("benchmarks" in argument for argument in config.invocation_params.args)
    return None if asked else True


@pytest.fixture(autouse=True)
def _all_cores() -> Iterator[None]:
    """The suite runs on one thread; here the cores work together, as for users."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(threads)
