"""Annotation files of mmpretrain's ``CustomDataset``: a line for each image, its path, a space and its label."""

import codecs
import re
from pathlib import Path

from mmpretrain.datasets import CustomDataset

from ..hooks.data_errors import DataError

_EXPECTED = 'A line is the path of an image, a space and the number of its class, such as: cats/1.jpg 0'


def check_byte_order_mark(dataset: CustomDataset) -> None:
    """Check a file that has been read: its first path would begin with a byte order mark.

    Raises:
        DataError: The file begins with one.
    """
    path = Path(str(dataset.ann_file))
    if not path.is_file():
        return
    with path.open('rb') as file:
        if file.read(3) == codecs.BOM_UTF8:
            raise DataError(f'{path}, line 1: the file begins with a byte order mark. Save it as UTF-8 without BOM')


def check_lines(dataset: CustomDataset) -> None:
    """Check the lines of a file that could not be read.

    Raises:
        DataError: A line has no label; the message names the file and the line.
    """
    path = Path(str(dataset.ann_file))
    if not path.is_file() or not dataset.with_label:
        return
    try:
        lines = path.read_text(encoding='utf-8').rstrip('\r\n').split('\n')
    except UnicodeDecodeError as error:
        raise DataError(f'{path}: byte {error.start} is not UTF-8. Save the file as UTF-8') from error
    for number, line in enumerate(lines, 1):
        problem = _problem(line)
        if problem:
            raise DataError(f'{path}, line {number}: {problem}. {_EXPECTED}')


def _problem(line: str) -> str | None:
    """What is wrong with a line, or None."""
    if not line.strip():
        return 'the line is blank. Remove it'
    _, space, label = line.strip().rpartition(' ')
    if space and re.fullmatch(r'[+-]?\d+', label):
        return None
    if re.search(r'\t[+-]?\d+\s*$', line):
        return f'a tab instead of a space is before the label in {line!r}'
    if re.search(r',\s*[+-]?\d+\s*$', line):
        return f'a comma instead of a space is before the label in {line!r}'
    if space and re.fullmatch(r'[+-]?\d*\.\d*', label):
        return f'the label {label!r} is not a whole number in {line!r}'
    return f'there is no label in {line!r}'
