"""What a run has logged, over all its starts."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import mean

_NO_METRICS = ('step', 'data_time', 'time')


class RunLog:
    """The scalars that mmengine has logged into the work folder of a run; a resumed run goes on where it was resumed.

    Args:
        folder: The work folder.

    Attributes:
        train: Entries of training by iteration, in order.
        val: Entries of validation by epoch (by iteration, where a run counts those), in order.

    Raises:
        FileNotFoundError: No run has logged anything in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        files = sorted(Path(folder).glob('*/vis_data/scalars.json'))  # Named by the time of the start.
        if not files:
            raise FileNotFoundError(f'{folder}: no run has logged here (there is no */vis_data/scalars.json)')
        train: dict[int, dict] = {}
        val: dict[int, dict] = {}
        for entry in (entry for file in files for entry in _entries(file)):
            if 'lr' in entry:
                train[entry.get('iter', entry['step'])] = entry
            else:
                val[entry['step']] = entry
        self.train = [train[step] for step in sorted(train)]
        self.val = [val[step] for step in sorted(val)]

    @property
    def terms(self) -> list[str]:
        """Names of the losses, the sum first."""
        names = {name: None for entry in self.train for name in entry if name.startswith('loss')}
        return sorted(names, key=lambda name: name != 'loss')

    @property
    def metrics(self) -> list[str]:
        """Names of what validation has measured."""
        return list({name: None for entry in self.val for name in entry if name not in _NO_METRICS})

    def metric(self, name: str) -> list[tuple[int, float]]:
        """Epoch and value of each validation."""
        return [(entry['step'], entry[name]) for entry in self.val if name in entry]

    def term(self, name: str) -> list[tuple[int, float]]:
        """Epoch and mean of a loss over it, as mmengine has logged it (smoothed); by iteration, where a run counts those."""
        values = defaultdict(list)
        for entry in self.train:
            if name in entry:
                values[entry.get('epoch', entry['step'])].append(entry[name])
        return [(epoch, mean(of_epoch)) for epoch, of_epoch in values.items()]

    @property
    def seconds_per_epoch(self) -> float | None:
        """Mean time of an iteration, times the iterations of an epoch; None for a run that counts no epochs."""
        last = self.train[-1] if self.train else {}
        if 'epoch' not in last:
            return None
        return mean(entry['time'] for entry in self.train) * last['iter'] / last['epoch']

    @property
    def memory(self) -> int | None:
        """Largest memory of the GPU in MiB, None where there was none."""
        return max((entry['memory'] for entry in self.train if 'memory' in entry), default=None)


def _entries(file: Path) -> Iterator[dict]:
    """The entries of one start. Where it was killed, the last line may be cut, and mmpretrain's ``load_json_log`` fails."""
    for line in file.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)
