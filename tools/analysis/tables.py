"""What the tools for analysis share: their tables, words for the teachers, and types of their flags."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

SUFFIXES = ('.md', '.json')
WIDTH = 160  # Of a page that is not printed on a terminal.


def weights_of_teachers(model: nn.Module) -> list[str]:
    """Return the name and the weights of each teacher of a distiller, in words."""
    return [
        f'{name}: {"random weights" if teacher.config.weights is None else teacher.config.weights.shown}'
        for name, teacher in model.teachers.items()
    ]


def at_least_1(text: str) -> int:
    """Read a positive number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be a whole number, 1 or more')
    return int(text)


def table_file(text: str) -> Path:
    """Read the name of a file for a table."""
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f'{text} must end in {" or ".join(SUFFIXES)}')
    return path


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, without folding its cells if this is not a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow='fold')
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(title, style='bold', highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def write_table(file: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: dict) -> None:
    """Write a table as Markdown, or its numbers with all digits as JSON.

    Args:
        file: The file, whose suffix says which.
        title: The title.
        columns: Titles of the columns.
        rows: The cells.
        numbers: What JSON holds beside the title; NaN becomes null.
    """
    if file.suffix == '.json':
        text = json.dumps({'title': title, **_without_nan(numbers)}, indent=1)
    else:
        lines = [columns, ['---'] * len(columns), *rows]
        text = f'{title}\n\n' + '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + '\n', encoding='utf-8')


def _without_nan(value: Any) -> Any:
    """The value with None for NaN: JSON knows only finite numbers."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
