"""A row of a CSV file, whose header has the names of the features."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .command_error import CommandError


class Row(NamedTuple):
    """A row of a table that is explained."""

    names: tuple[str, ...]
    values: tuple[float, ...]


def read_row(file: Path, number: int | None, columns: Sequence[str] | None) -> tuple[Tensor, Row, str]:
    """The model's input [1, D], the row, and what was done.

    Args:
        file: Comma-separated values under a header.
        number: Of the row; the first below the header is 0.
        columns: The names of the model's features, in its order. None for all.

    Raises:
        CommandError: If the file, the row or a column is missing, or a cell is no finite number.
    """
    header, rows = _read(file)
    if number is None or not 0 <= number < len(rows):
        got = "none" if number is None else str(number)
        raise CommandError(f"{file}: expected the number of a row, --row 0 to --row {len(rows) - 1}, got {got}.")
    cells = rows[number]
    if len(cells) != len(header):
        raise CommandError(f"{file}: expected {len(header)} cells in row {number}, as in the header, got {len(cells)}.")
    names = tuple(columns) if columns else tuple(header)
    if unknown := [name for name in names if header.count(name) != 1]:
        raise CommandError(
            f"{file}: expected one column for each name, got {header.count(unknown[0])} with {unknown[0]!r}. "
            f"The header has {header}."
        )
    values = tuple(_number(file, number, name, cells[header.index(name)]) for name in names)
    return torch.tensor([values]), Row(names, values), f"{file.name}, row {number} of {len(rows)}, {len(names)} columns"


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = [line for line in csv.reader(opened) if line]
    except FileNotFoundError as error:
        raise CommandError(f"{file}: no such file.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{file}: expected comma-separated values, got {error}.") from error
    if len(lines) < 2:
        raise CommandError(f"{file}: expected a header and one row or more, got {len(lines)} lines.")
    return [name.strip() for name in lines[0]], lines[1:]


def _number(file: Path, row: int, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if abs(value) < float("inf"):
        return value
    raise CommandError(
        f"{file}: expected a finite number in row {row}, column {name!r}, got {cell!r}. Say which columns the model "
        "takes: --columns NAME,NAME,..."
    )
