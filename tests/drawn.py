"""Tests of each row of the contract, on as many drawn networks as its share."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .contract import ROWS, Row


def on_drawn_networks(
    rows: Iterable[Row] = ROWS, **strategies: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[[Row], None]]:
    """A test of each row on as many drawn examples as the profile of hypothesis says, times the row's share.

    Args:
        rows: Of the contract.
        strategies: Of the test's arguments, but for `row`.
    """

    def of_test(test: Callable[..., None]) -> Callable[[Row], None]:
        @pytest.mark.parametrize("row", rows, ids=repr)
        def of_row(row: Row) -> None:
            def example(**drawn: Any) -> None:
                test(row=row, **drawn)

            example.__name__ = test.__name__  # which the first draws depend on
            count = math.ceil(row.share * settings.get_profile(settings.get_current_profile_name()).max_examples)
            settings(max_examples=count)(given(**strategies)(example))()

        of_row.__name__, of_row.__doc__ = test.__name__, test.__doc__
        return of_row

    return of_test
