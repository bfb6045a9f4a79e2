import json
import warnings
from collections import defaultdict
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from statistics import mean

_NOT_METRICS = ('step', 'data_time', 'time')


class RunLog:
    """Scalars that mmengine logged into the work folder of a run.

    The logs of all starts of the run are merged: where a resumed run repeats an iteration, its later entry is used.

    Args:
        folder: The work folder.

    Attributes:
        train: Training entries, sorted by iteration.
        val: Validation entries, sorted by epoch, or by iteration if the run does not count epochs.

    Raises:
        FileNotFoundError: The folder holds no log of a run, or none with an entry.
    """

    def __init__(self, folder: str | Path) -> None:
        files = sorted(Path(folder).glob('*/vis_data/scalars.json'))  # The folders are named by the time of the start.
        if not files:
            raise FileNotFoundError(f'{folder}: no run has logged here (there is no */vis_data/scalars.json)')
        train, val = {}, {}
        for entry in (entry for file in files for entry in _entries(file)):
            if 'lr' in entry:
                train[entry.get('iter', entry['step'])] = entry
            else:
                val[entry['step']] = entry
        if not train and not val:
            raise FileNotFoundError(f'{files[-1]}: the log holds no readable entry')
        self.train = [train[step] for step in sorted(train)]
        self.val = [val[step] for step in sorted(val)]

    @property
    def terms(self) -> list[str]:
        """Names of the losses; the total ``'loss'`` comes first."""
        names = {name: None for entry in self.train for name in entry if name.startswith('loss')}
        return sorted(names, key=lambda name: name != 'loss')

    @property
    def metrics(self) -> list[str]:
        """Names of the validation metrics."""
        return list({name: None for entry in self.val for name in entry if name not in _NOT_METRICS})

    def metric(self, name: str) -> list[tuple[int, float]]:
        """Return the epoch and the value of a metric for each validation."""
        return [(entry['step'], entry[name]) for entry in self.val if name in entry]

    def term(self, name: str) -> list[tuple[int, float]]:
        """Return each epoch with the mean of a loss over its entries, which mmengine has smoothed.

        If the run does not count epochs, the values are by iteration.
        """
        values = defaultdict(list)
        for entry in self.train:
            if name in entry:
                values[entry.get('epoch', entry['step'])].append(entry[name])
        return [(epoch, mean(of_epoch)) for epoch, of_epoch in values.items()]

    @property
    def seconds_per_epoch(self) -> float | None:
        """Mean time of an iteration times the iterations per epoch; None if the run does not count epochs."""
        last = self.train[-1] if self.train else {}
        times = [entry['time'] for entry in self.train if 'time' in entry]
        if not times or 'iter' not in last or not last.get('epoch'):
            return None
        return mean(times) * last['iter'] / last['epoch']

    @property
    def memory(self) -> int | None:
        """Peak GPU memory in MiB; None without a GPU."""
        return max((entry['memory'] for entry in self.train if 'memory' in entry), default=None)


def _entries(file: Path) -> Iterator[dict]:
    """Yield the entries of one start, and warn about lines that are none.

    If the process was killed, the last line may be incomplete: mmpretrain's ``load_json_log`` fails on it, and it is skipped
    here.
    """
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    damaged = []
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is not None:
            yield entry
        elif line.strip() and number < len(lines):
            damaged.append(number)
    if damaged:
        warnings.warn(f'{file}: {len(damaged)} lines are damaged and skipped, the first is line {damaged[0]}', stacklevel=2)


def _entry(line: str) -> dict | None:
    """The numbers of a line; None if it is not an entry of mmengine's log."""
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    entry = {name: value for name, value in entry.items() if isinstance(value, Real) and not isinstance(value, bool)}
    return entry if 'step' in entry else None
