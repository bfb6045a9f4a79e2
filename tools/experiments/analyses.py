"""What the superpixels and the losses of a trained student are: tables and pictures, by the tools in tools/analysis."""

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from runs import ROOT, call_tool

PHOTOGRAPHS = ('china.jpg', 'flower.jpg')
"""Photographs of scikit-learn under CC BY 2.0."""


class Analyses:
    """Analyses of students that were trained by SeRKD; those that are newer than the student are not made again.

    Args:
        folder: Folder of the tables and pictures.
        images: Folder of the images whose superpixels are measured.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, student: str, live: Sequence[object], cached: Path, checkpoint: Path) -> list[str]:
        """Measure and draw a student and its teacher.

        Args:
            student: Name of the student.
            live: A config with the teacher and its ``--cfg-options``, as arguments of a tool.
            cached: The config of the training.
            checkpoint: The trained student.

        Returns:
            Their tables in Markdown, and a link to the long one of other cells, iterations and variants of the merger.
        """
        config, *options = live
        trained = [config, checkpoint, self.images, *options]  # With the cells and iterations of the training.
        others = [config, checkpoint, self.images, '--cells', 1, 2, 3, '--iters', 1, 2, 3, 10, '--variants']
        others += ['paper', 'exclude-self', 'normalize', 'normalize+tau=0.3+exclude-self', *options]
        gradients = ['--part', 'backbone.', '--batches', 8]
        self._remove_old(student, checkpoint.stat().st_mtime)
        self._draw(student, [config, checkpoint], options)
        tables = [
            self._table(f'{student}_superpixels.md', 'superpixel_quality.py', trained),
            self._table(f'{student}_gradients_before.md', 'loss_gradients.py', [cached, *gradients]),
            self._table(
                f'{student}_gradients_after.md', 'loss_gradients.py', [cached, checkpoint, '--progress', 1.0, *gradients]
            ),
        ]
        other = self._table(f'{student}_other_superpixels.md', 'superpixel_quality.py', others)
        link = f'[Other cells, iterations and variants]({self.folder.name}/{other.name})'
        return [*(path.read_text(encoding='utf-8').rstrip() for path in tables), link]

    def _remove_old(self, student: str, trained: float) -> None:
        """Remove what was made of a student before it was trained again."""
        for path in self.folder.glob(f'{student}_*'):
            if path.stat().st_mtime < trained:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _table(self, name: str, tool: str, arguments: Sequence[object]) -> Path:
        """Run a tool that writes a table, unless the table is there."""
        path = self.folder / name
        if not path.is_file():
            command = [sys.executable, ROOT / 'tools' / 'analysis' / tool, *arguments, '--out', path.with_suffix('.new.md')]
            call_tool(command, path.with_suffix('.log'))
            path.with_suffix('.new.md').rename(path)
        return path

    def _draw(self, student: str, arguments: Sequence[object], options: Sequence[object]) -> None:
        """Draw superpixels of teacher and student, unless that is done."""
        target, source = self.folder / f'{student}_pictures', self.folder / 'photographs'
        if target.is_dir():
            return
        images = Path(find_spec('sklearn').origin).parent / 'datasets' / 'images'
        source.mkdir(exist_ok=True)
        for name in PHOTOGRAPHS:
            shutil.copyfile(images / name, source / name)
        draw, new = ROOT / 'tools' / 'visualization' / 'vis_superpixels.py', self.folder / f'{student}_pictures.new'
        call_tool([sys.executable, draw, *arguments, source, '--out-dir', new, *options], target.with_suffix('.log'))
        new.rename(target)
