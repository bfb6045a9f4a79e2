"""The stored outputs of a teacher of tiny_imagenet.py, and the configs of the trainings that read them."""

import hashlib
import json
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from runs import ROOT, call_tool, parsed

from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.work_dir import WorkDirError


@dataclass(frozen=True)
class Scale:
    """How much is trained; settings are in the format of ``--cfg-options``.

    Attributes:
        views: Augmented views of the images in a cache.
        common: Settings of every config.
        vit: Settings of the ViTs, below the key of the student's model.
        cnn: Settings of the CNNs, below the key of the student's model.
        methods: Settings of single configs, by their names STUDENT_METHOD.
    """

    views: int
    common: tuple[str, ...] = ()
    vit: tuple[str, ...] = ()
    cnn: tuple[str, ...] = ()
    methods: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


class TeacherOutputs:
    """A cache of a teacher's outputs, with a config for each training from it.

    Args:
        folder: Folder of the cache, the configs and the logs.
        weights: Package of the teacher's weights on the index, without its ending ``-pytorch-model``.
        sources: Configs of the trainings with the teacher, STUDENT_METHOD.py, and of those without, STUDENT_labels.py.
        scale: How much is trained.
        settings: Other settings of all configs, such as the folder of the images.
        jobs: Number of processes.
    """

    def __init__(
        self, folder: Path, weights: str, sources: Sequence[Path], scale: Scale, settings: Sequence[str], jobs: int
    ) -> None:
        self.folder, self.sources, self.scale, self.jobs = folder, list(sources), scale, jobs
        self.settings = [*scale.common, *settings]
        self._package, self._weights = weights, folder.parent / f'{weights}.pth'

    def config(self, student: str, method: str) -> Path:
        """Return the config of a training from this cache."""
        return self.folder / f'{student}_{method}.py'

    def live(self, student: str, method: str) -> list[object]:
        """Return the config of a training with the teacher itself, and its settings, as arguments of a tool."""
        source = next(path for path in self.sources if path.stem == f'{student}_{method}')
        sizes = [f'model.student.model.{size}' for size in self._sizes(source)]
        return [source, '--cfg-options', f'model.teacher.checkpoint={self._weights}', *self.settings, *sizes]

    def accuracy(self) -> float:
        """Return the teacher's top-1 accuracy on the validation images, in percent."""
        return float(re.findall(r'accuracy/top1: ([\d.]+)', self._text('accuracy.log'))[-1])

    def make(self) -> None:
        """Convert the weights, measure the teacher and store its outputs, unless that is done.

        Raises:
            SystemExit: The settings have changed, a tool failed, or another process is doing this.
        """
        lock = RunLock(self.folder.parent / 'run.lock', advice='Two starts would make the same: wait')
        try:
            lock.acquire(print)
        except WorkDirError as error:
            raise SystemExit(str(error)) from None
        try:
            self._make()
        finally:
            lock.release()

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = '\n'.join([*map(_named_digest, self.sources), *self.settings]) + '\n'
        if self._text('settings.txt') not in ('', settings):
            raise SystemExit(
                f'{self.folder} was made with other configs or settings (settings.txt): choose another --work-dir, or '
                f'delete that folder and all its trainings in {self.folder.parent.parent / "students"}'
            )
        (self.folder / 'settings.txt').write_text(settings, encoding='utf-8')
        if (self.folder / 'finished').is_file():
            return
        self._run_tools([path for path in self.sources if not path.stem.endswith('_labels')])
        for path in self.sources:
            self._write_config(path)
        (self.folder / 'finished').touch()

    def _run_tools(self, configs: Sequence[Path]) -> None:
        tools = ROOT / 'tools'
        if not self._weights.is_file():
            converter = tools / 'model_converters' / 'efficientnet_lite.py'
            new = self._weights.with_suffix('.new.pth')  # Killed while it is written, it is written again.
            self._call('weights.log', [sys.executable, converter, self._package, new])
            new.rename(self._weights)
        options = ['--cfg-options', f'model.teacher.checkpoint={self._weights}', *self.settings]
        self._call('accuracy.log', [sys.executable, tools / 'test_teacher.py', configs[0], *options])
        flags = ['--out', self.folder / 'cache', '--views', self.scale.views, '--tokens', 'full', *options]
        gpus = torch.cuda.device_count() or self.jobs
        self._call('cache.log', ['bash', tools / 'dist_cache_teacher.sh', *configs, *flags], GPUS=str(gpus))

    def _write_config(self, source: Path) -> None:
        """Write the config of a training from the cache, or of one with labels only on the same views."""
        cached = self.folder / 'cache' / source.name
        if cached.is_file():
            config, model = Config.fromfile(cached), 'model.student.model'
        else:
            config, model = Config.fromfile(source), 'model'
            config.merge_from_dict(parsed(self.settings))
            loader = config.train_dataloader
            loader.dataset = {
                'type': 'RepeatableViews', 'dataset': loader.dataset, 'num_views': self.scale.views, 'seed': 0
            }  # fmt: skip
            loader.sampler = {'type': 'ViewSampler', 'shuffle': True}
            config.data_preprocessor.type = 'ViewPreprocessor'
        config.merge_from_dict(parsed([f'{model}.{size}' for size in self._sizes(source)]))
        config.merge_from_dict(dict(self.scale.methods.get(source.stem, {})))
        dump = {'type': 'DumpResults', 'out_file_path': 'predictions.pkl'}
        config.val_evaluator = config.test_evaluator = [*config.val_evaluator, dump]
        config.dump(self.folder / source.name)

    def _sizes(self, source: Path) -> tuple[str, ...]:
        """Settings of the size of a student."""
        return self.scale.vit if source.stem.startswith('vit') else self.scale.cnn

    def _text(self, name: str) -> str:
        """The content of a file of this folder; empty without one."""
        path = self.folder / name
        return path.read_text(encoding='utf-8') if path.is_file() else ''

    def _call(self, log: str, command: Sequence[object], **environment: str) -> None:
        """Run a tool, whose output goes to a file."""
        path = self.folder / log
        print(f'{self.folder.name}: {Path(str(command[1])).name}, see {path}', flush=True)
        path.unlink(missing_ok=True)
        call_tool(command, path, PYTHON=sys.executable, PORT=str(_free_port()), **environment)


def _named_digest(path: Path) -> str:
    """The name of a config, and what changes with its content."""
    content = json.dumps(Config.fromfile(path).to_dict(), sort_keys=True, default=str)
    return f'{path.stem} {hashlib.sha256(content.encode()).hexdigest()[:16]}'


def _free_port() -> int:
    """A port that no process listens to."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]
