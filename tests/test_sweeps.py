"""What is marked long runs with `--long` and is deselected without; a sweep keeps the cases that it names."""

from typing import NamedTuple

import pytest

from . import sweeps
from .sweeps import sweep

pytest_plugins = ["pytester"]

SUITE = """
import pytest
from tests.sweeps import long, sweep

@pytest.mark.parametrize("n", sweep([1, 2, 3], quick=["2"]))
def test_swept(n): assert n == 2

@long
def test_long(): raise AssertionError

def test_plain(): pass
"""


def _run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers = long: only with --long\naddopts = --strict-markers")
    pytester.makepyfile(SUITE)
    return pytester.runpytest_inprocess("-p", "no:xdist", *options, plugins=[sweeps])


def test_long_tests_are_deselected_by_default(pytester: pytest.Pytester) -> None:
    _run(pytester).assert_outcomes(passed=2, deselected=3)


def test_the_option_runs_them_all(pytester: pytest.Pytester) -> None:
    _run(pytester, "--long").assert_outcomes(passed=2, failed=3)


class Pair(NamedTuple):
    """A parameter of several fields, which stays one parameter."""

    first: str
    second: int


def test_a_sweep_marks_all_but_the_quick() -> None:
    found = sweep([("a", 1), ("a", 2), Pair("b", 1)], quick=["a-2", "Pair(first='b', second=1)"])
    assert [p.id for p in found] == ["a-1", "a-2", "Pair(first='b', second=1)"]
    assert [len(p.marks) for p in found] == [1, 0, 0]
    assert [p.values for p in found] == [("a", 1), ("a", 2), (Pair("b", 1),)]


@pytest.mark.parametrize("quick", [["a", "c"], []])
def test_a_sweep_refuses_quick_ids_of_no_value(quick: list[str]) -> None:
    with pytest.raises(ValueError, match=r"sweep\(quick=...\): expected ids of the values, got .* possible are \['a'"):
        sweep(["a", "b"], quick=quick)
