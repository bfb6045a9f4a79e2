"""Try to break serkd-mm: make it lose data, hang, return wrong results silently, or fail without a clear message.

    python tests/robustness/attempts.py [--only AREA ...] [--match TEXT ...] [--out FILE]

Each attempt runs in a process by itself with a time limit, on real files and real trainings, and is judged against what
should happen. The outcomes:

- works: as it should.
- refused clearly: an error of this package, or one line, that names the setting or the file.
- unclear: another error, or a refusal of what should work.
- bad: a wrong result that nothing reports, a hang, lost data, or a setting that is accepted and should not be.

Prints a table of all attempts and the counts by outcome; exits with 1 if an outcome is unclear or bad.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # Attempts are forked, and threads of OpenMP do not survive that.
REPOSITORY = Path(__file__).parents[2]
# Processes that attempts start import this repository, not an installed package.
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get('PYTHONPATH'))))
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / 'tests'), str(REPOSITORY)]

import area_checkpoints
import area_config
import area_data
import area_environment
import area_numbers
import area_pairs
import area_tools
import area_training
from judging import OUTCOMES, Attempt, make

AREAS = {
    'config': area_config.ATTEMPTS,
    'pairs': area_pairs.ATTEMPTS,
    'training': area_training.ATTEMPTS,
    'environment': area_environment.ATTEMPTS,
    'data': area_data.ATTEMPTS,
    'numbers': area_numbers.ATTEMPTS,
    'tools': area_tools.ATTEMPTS,
    'checkpoints': area_checkpoints.ATTEMPTS,
}


def main() -> int:
    """Make the attempts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=AREAS, default=list(AREAS), metavar='AREA', help=', '.join(AREAS))
    parser.add_argument('--match', nargs='+', default=[''], metavar='TEXT', help='only attempts described by such a text')
    parser.add_argument('--out', type=Path, help='also write the tables to this file, in Markdown')
    args = parser.parse_args()
    chosen = [
        (area, attempt) for area in args.only for attempt in AREAS[area] if any(text in attempt.what for text in args.match)
    ]
    rows, counts = [], {area: Counter() for area in args.only}
    with tempfile.TemporaryDirectory(prefix='attempts-') as folder:
        for number, (area, attempt) in enumerate(chosen, 1):
            start = time.monotonic()
            result = make(attempt, Path(folder) / str(number))
            seconds = time.monotonic() - start
            counts[area][result.outcome] += 1
            rows.append(row(area, attempt, result.outcome, result.happened))
            print(f'{number}/{len(chosen)} {seconds:4.1f} s  {area}: {attempt.what}: {result.outcome}', flush=True)
            if result.outcome in OUTCOMES[2:]:
                print(f'      expected: {attempt.expected}\n      happened: {result.happened}', flush=True)
    print('\n' + summary(counts))
    if args.out is not None:
        header = '| area | attempt | should | outcome | what happened |\n| --- | --- | --- | --- | --- |\n'
        args.out.write_text(summary(counts) + '\n\n' + header + '\n'.join(rows) + '\n')
    return int(any(count[outcome] for count in counts.values() for outcome in OUTCOMES[2:]))


def row(area: str, attempt: Attempt, outcome: str, happened: str) -> str:
    """A row of the table of attempts."""
    cells = [area, attempt.what, attempt.expected, outcome, happened]
    return '| ' + ' | '.join(cell.replace('|', '/').replace('\n', ' ') for cell in cells) + ' |'


def summary(counts: dict[str, Counter]) -> str:
    """The counts by area and outcome, as a table."""
    total = sum(counts.values(), Counter())
    lines = ['| area | ' + ' | '.join(OUTCOMES) + ' | all |', '| --- ' * (len(OUTCOMES) + 2) + '|']
    for area, count in [*counts.items(), ('all', total)]:
        cells = [area, *(count[outcome] for outcome in OUTCOMES), sum(count.values())]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
