"""The report of run_all.py, in JSON and Markdown, written anew after every part."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUM_KEY_FIGURES, NUM_LINES = 3, 20


@dataclass
class Result:
    """A part in the report.

    Attributes:
        name: Name of the part.
        title: What it does.
        status: 'passed', 'failed', 'skipped', 'running' or 'not run'.
        reason: Why it failed or was skipped.
        seconds: Time that it took.
        figures: Numbers and words by name, the most important first.
    """

    name: str
    title: str
    status: str = 'not run'
    reason: str = ''
    seconds: float = 0.0
    figures: dict = field(default_factory=dict)

    def end(self, status: str, reason: str) -> None:
        """Set how the part ended."""
        self.status, self.reason = status, reason


@dataclass
class Report:
    """All results, and what they were measured on.

    Attributes:
        out: Folder of the report and of ``logs``.
        about: The run: device, versions, date, commit.
        start: When it began, of ``time.monotonic``.
        results: All parts in their order.
    """

    out: Path
    about: dict
    start: float
    results: list[Result] = field(default_factory=list)

    def result(self, name: str) -> Result:
        """The result of a part."""
        return next(result for result in self.results if result.name == name)

    def failures(self) -> list[Result]:
        """The parts that failed, and those that should have run and did not."""
        return [result for result in self.results if result.status not in ('passed', 'skipped')]

    def write(self) -> None:
        """Replace both files."""
        self.about['seconds'] = round(time.monotonic() - self.start, 1)
        content = {**self.about, 'failed': [result.name for result in self.failures()]}
        content['parts'] = [asdict(result) for result in self.results]
        for name, text in (('report.json', json.dumps(content, indent=1) + '\n'), ('report.md', self.markdown())):
            new = self.out / f'.{name}.new'
            new.write_text(text, encoding='utf-8')
            os.replace(new, self.out / name)

    def markdown(self) -> str:
        """The report as a page: a table of the parts, then the figures, tables and errors of each."""
        passed = [result for result in self.results if result.status == 'passed']
        lines = [f'# serkd-mm on {self.about.get("device", "an unknown device")}', '']
        lines.append(f'{len(passed)} of {len(self.results)} parts passed in {self.about["seconds"]:.0f} s.')
        if self.about.get('left out'):
            lines += ['', f'**Left out by --parts: {", ".join(self.about["left out"])}.**']
        if self.about['quick']:
            lines += ['', '**A rehearsal by `--quick`: times mean nothing.**']
        lines += [f'\n**{result.name} {result.status}:** {_line(result.reason)}' for result in self.failures()]
        above = ('device', 'seconds', 'left out')
        lines += ['', *(f'- {name}: {value}' for name, value in self.about.items() if name not in above)]
        lines += ['', '| part | | result | s | key figures |', '|' + ' --- |' * 5]
        for result in self.results:
            figures = list(result.figures.items())[:NUM_KEY_FIGURES]
            shown = '; '.join(f'{name}: {_number(value)}' for name, value in figures)
            state = f'{result.status}: {_line(result.reason)}' if result.status == 'skipped' else result.status
            lines.append(f'| {result.name} | {result.title} | {state} | {result.seconds:.0f} | {_line(shown)} |')
        for result in self.results[1:]:  # What the first one found is above.
            lines += self._details(result)
        return '\n'.join(lines) + '\n'

    def _details(self, result: Result) -> list[str]:
        """The figures of a part, and the tables of its log, or the end of it if the part failed."""
        printed = read_log(self.out / 'logs' / f'{result.name}.log')
        lines = []
        if result.status == 'failed' and printed:
            lines += ['', '```text', *printed[-NUM_LINES:], '```']
        tables = [line for line in printed if line.startswith('| ')]
        if result.status == 'passed' and tables:
            lines += ['', *_separated(tables)]
        elif result.figures:
            lines += ['', *(f'- {name}: {_number(value)}' for name, value in result.figures.items())]
        return ['', f'## {result.name}', *lines] if lines else []


def read_log(path: Path) -> list[str]:
    """The lines of a log that are not empty, without the path of the repository; none without a file."""
    text = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
    return [line for line in text.replace(f'{ROOT}/', '').replace(str(ROOT), '.').splitlines() if line.strip()]


def _separated(rows: list[str]) -> list[str]:
    """Rows of tables, with an empty line before each heading but the first."""
    headings = [number - 1 for number, row in enumerate(rows) if row.startswith('| ---')]
    return [line for number, row in enumerate(rows) for line in ([''] if number in headings[1:] else []) + [row]]


def _number(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _line(text: str) -> str:
    """In a cell of a table."""
    return ' '.join(text.split()).replace('|', '\\|')
