"""What tools/cache_teacher.py prints: the plan of a cache, and its progress."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from mmengine.dist import is_main_process
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serkd_mm.distillers.cache_maker import CacheMaker
from serkd_mm.teacher_cache.formats import build_format
from serkd_mm.teacher_cache.manifest import HEADER_BYTES, Manifest
from serkd_mm.teacher_cache.token_basis import describe_basis

_LINE_SECONDS = 60
_LINE_WIDTH = 140  # Of a file or pipe, which has none.


def say(text: str) -> None:
    """Print a line on the main process."""
    if is_main_process():
        print(text, flush=True)


def print_plan(maker: CacheMaker, manifest: Manifest, free: int) -> None:
    """Print what is stored for which loss, and the size of the whole.

    Args:
        maker: The maker of the cache.
        manifest: The manifest.
        free: Bytes that the disk has left.
    """
    title = f'Teacher cache {maker.folder}'
    table = Table(title=title, title_justify='left', title_style='bold', box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ('loss', 'teacher', 'source', 'stored as', 'bytes'):
        table.add_column(column, overflow='fold', justify='right' if column == 'bytes' else 'left')
    for entry in manifest.entries:
        parts = [] if entry.tokenizer is None else [entry.tokenizer['type'], entry.merger['type']]
        losses = ', '.join(maker.losses_of(entry)) or '(of other configs)'
        cells = [losses, entry.tap, ', '.join(parts) or '-', _stored_as(entry.format)]
        table.add_row(*cells, f'{entry.num_bytes:,}')
    table.add_row('(checksums)', '', '', '', str(HEADER_BYTES))
    width = None if sys.stdout.isatty() else _LINE_WIDTH
    Console(markup=False, width=width).print(table)  # Brackets belong to the names of folders and taps.
    views = f'{manifest.num_views} views' if manifest.num_views > 1 else '1 view'
    whole = manifest.num_views * manifest.num_positions * manifest.record_bytes
    print(
        f'{views} x {manifest.num_positions:,} images x {manifest.record_bytes:,} bytes = '
        f'{gigabytes(whole)}; {gigabytes(free)} free',
        flush=True,
    )


def print_bases(manifest: Manifest) -> None:
    """Print by how much the tokens that are stored by a basis are off."""
    for entry in manifest.entries:
        if entry.format['type'] == 'BasisFormat':
            say(
                f'{_stored_as(entry.format)}: loses {entry.format["relative_error"]:.2g} of the variance of the tokens, a '
                f'mean squared error of {entry.format["mean_squared_error"]:.3g} (on images that it was not fitted to)'
            )


def gigabytes(size: int) -> str:
    """A size in a unit that suits it."""
    for unit, bytes_of_one in (('GB', 10**9), ('MB', 10**6)):
        if size >= bytes_of_one:
            return f'{size / bytes_of_one:,.1f} {unit}'
    return f'{size / 1000:,.1f} kB'


def duration(seconds: float) -> str:
    """A time in a unit that suits it."""
    for unit, seconds_of_one in (('h', 3600), ('min', 60)):
        if seconds >= seconds_of_one:
            return f'{seconds / seconds_of_one:.1f} {unit}'
    return f'{seconds:.0f} s'


class ProgressReport:
    """A progress bar in a terminal, and otherwise a line a minute; only on the main process."""

    def __enter__(self) -> 'ProgressReport':
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn('images,'), TimeRemainingColumn(), TextColumn('left'))
        shows_bar = is_main_process() and sys.stdout.isatty()
        self._bar = Progress(*columns, disable=not shows_bar)
        self._task = self._bar.add_task('images', total=None)
        self._bar.start()
        self._started = self._printed = time.monotonic()
        self._prints = is_main_process() and not shows_bar
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def report(self, done: int, total: int) -> None:
        """Show how many images of how many are done."""
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if self._prints and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            left = (now - self._started) / max(done, 1) * (total - done)
            print(f'{done:,} of {total:,} images, {duration(left)} left', flush=True)


def _stored_as(settings: Mapping[str, Any]) -> str:
    """How an output is stored, in words; a basis may not be fitted yet."""
    if settings['type'] == 'BasisFormat':
        return describe_basis(*settings['shape'], settings['rank'])
    return str(build_format(dict(settings), ''))
