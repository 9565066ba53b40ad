"""Long tests, which only `--long` runs, and sweeps: parametrised tests of which a few stand for all by default."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

OPTION = "--long"
long = pytest.mark.long


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run the tests marked long too: every case of every sweep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--long`, deselect the tests marked long."""
    if config.getoption(OPTION):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def sweep(values: Iterable[Any], *, quick: Collection[str]) -> list[Any]:
    """The parameters of a test that runs on a few of its values by default, and on all of them with `--long`.

    Args:
        values: One parameter each, or a tuple of several.
        quick: Ids of the values for every run. An id is the value's text, or those of several joined by "-".

    Raises:
        ValueError: If some quick id is that of no value, so that no renaming can empty a test.
    """
    parts = [value if type(value) is tuple else (value,) for value in values]
    ids = ["-".join(map(str, each)) for each in parts]
    unknown = set(quick) - set(ids)
    if unknown or not quick:
        raise ValueError(f"sweep(quick=...): expected ids of the values, got {sorted(unknown)}; possible are {ids}.")
    marks = [() if name in quick else long for name in ids]
    return [pytest.param(*each, id=name, marks=mark) for each, name, mark in zip(parts, ids, marks, strict=True)]
