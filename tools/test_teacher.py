"""Evaluate a teacher as the student's training sees it: is it loaded, normalized and sized right, and are its classes?

    python tools/test_teacher.py CONFIG [--teacher NAME] [--work-dir DIR] [--cfg-options KEY=VALUE ...]

The images are those of ``val_dataloader``, preprocessed for the student, then normalized again and resized for the teacher.
Its predictions are the tap ``logits``, restricted to ``teacher.classes``. A teacher without a class head is evaluated by the
k nearest neighbors of its pooled features (``KNNAccuracy``), and so is one of other classes if no loss reads logits.
"""

import argparse
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_errors import ConfigError, suggest
from serkd_mm.config_files import OptionsAction, read_config, type_name
from serkd_mm.distillers.dry_run import check_input_size, default_input_size
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.distillers.model_parts import num_classes_of, pooled_features
from serkd_mm.distillers.teacher_names import teacher_key, teacher_settings
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.urls import conceal_teacher
from serkd_mm.hooks.data_errors import innermost_datasets, lacks
from serkd_mm.hooks.teacher_classes_hook import compare_names
from serkd_mm.runner import CheckedRunner, check_config

# Metrics of the student's features and losses: a teacher has none of the losses, and its features are those of KNNAccuracy.
OF_STUDENTS = ('KNNAccuracy', 'DistillationLosses')


@MODELS.register_module(force=True)
class EvaluatedTeacher(BaseClassifier):
    """A teacher of a distillation as a classifier of the student's images.

    Args:
        distiller: The ``model`` of the distillation.
        name: Name of the teacher; None if there is one.
        data_preprocessor: The student's. Default: None.
    """

    def __init__(self, distiller: Mapping, name: str | None, data_preprocessor: Mapping | None = None) -> None:
        preprocessor = distiller.get('data_preprocessor') or data_preprocessor
        student = MODELS.build({**distiller, 'teacher': None, 'teachers': None, 'data_preprocessor': preprocessor})
        super().__init__(data_preprocessor=student.data_preprocessor)
        settings, key = choose_teacher(distiller, name)
        size = check_input_size(distiller.get('input_size')) or default_input_size(student.student)
        statistics = InputStatistics.from_preprocessor(student.data_preprocessor)
        headless = FrozenTeacher({**settings, 'taps': {}, 'classes': None}, set(), statistics, size, key)
        self.logits_are_read = any(
            isinstance(loss, Mapping) and loss.get('on') == 'logits' for loss in (distiller.get('losses') or {}).values()
        )
        has_tap = self.logits_are_read or settings.get('taps') is None or 'logits' in settings['taps']
        self.predicts = num_classes_of(headless.model) != 0 and has_tap
        self.teacher = FrozenTeacher(settings, {'logits'}, statistics, size, key) if self.predicts else headless
        self.teacher.load()
        print_log(f'{key}: {self.describe(size)}', logger='current')

    def describe(self, size: tuple[int, int, int]) -> str:
        """Model, weights and input of the teacher, in words.

        Args:
            size: Channels, height and width of the student's images.
        """
        config, own = self.teacher.config, self.teacher.input_size or size[1:]
        mean, std, flipped = astuple(InputStatistics.from_preprocessor(self.teacher.model.data_preprocessor))
        weights = 'random weights' if config.weights is None else f'weights {config.weights.shown}'
        channels = 'RGB' if flipped else 'BGR'
        return (
            f'{config.source.shown}, {weights}, {channels} images of {own[0]}x{own[1]}, mean {rounded(mean)}, '
            f'standard deviation {rounded(std)}'
        )

    def predict(self, inputs: torch.Tensor, data_samples: list[DataSample], **kwargs) -> list[DataSample]:
        """Return the samples with the teacher's predictions, or with its pooled features."""
        if self.predicts:
            scores = self.teacher(inputs)['logits'].tensor.float().softmax(dim=1)
            for sample, score in zip(data_samples, scores, strict=True):
                sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True))
            return data_samples
        images = self.teacher.own_images(inputs)
        with self.teacher.autocast(images.device.type):
            features = pooled_features(self.teacher.model, images)
        for sample, feature in zip(data_samples, features, strict=True):
            sample.set_data({'pooled_features': feature})
        return data_samples

    def forward(self, inputs: torch.Tensor, data_samples: list[DataSample], mode: str = 'predict') -> list[DataSample]:
        """Predict; there is no other mode."""
        return self.predict(inputs, data_samples)

    def extract_feat(self, inputs: torch.Tensor, **kwargs) -> torch.Tensor:
        """Compute pooled features."""
        return pooled_features(self.teacher.model, self.teacher.own_images(inputs))

    @property
    def num_classes(self) -> int | None:
        """Number of classes that are predicted."""
        classes = self.teacher.config.classes
        return num_classes_of(self.teacher.model) if classes is None else len(classes.indices)


def rounded(values: tuple[float, ...]) -> str:
    """Numbers for a message."""
    return ', '.join(f'{value:.6g}' for value in values)


def choose_teacher(distiller: Mapping, name: str | None) -> tuple[dict, str]:
    """Return the settings of the teacher without its cache, and its config key.

    Raises:
        ConfigError: There is no teacher of this name, or there are several and none is named.
    """
    settings, several = teacher_settings(distiller.get('teacher'), distiller.get('teachers')), 'teachers' in distiller
    several = several and distiller['teachers'] is not None
    if name is None and len(settings) == 1:
        name = next(iter(settings))
    if name is None:
        raise ConfigError(f'the config has several teachers: choose one with --teacher NAME. {suggest("", settings)}')
    if name not in settings:
        raise ConfigError(f'--teacher {name}: the config has no teacher of this name. {suggest(name, settings)}')
    return {key: value for key, value in settings[name].items() if key != 'cache'}, teacher_key(name, several)


def main() -> None:
    """Evaluate, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument('--teacher', metavar='NAME', help='which of several teachers')
    parser.add_argument('--work-dir', help='folder of the log; work_dirs/CONFIG_teacher by default')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    args = parser.parse_args()
    config = read_config(args.config, args.cfg_options)
    check_config(config, read_config(args.config), args.cfg_options)
    if type_name(config.model) != 'RelationDistiller':
        raise ConfigError(
            f'{args.config}: model.type is {type_name(config.model)}, but only a RelationDistiller has teachers'
        )
    config.work_dir = args.work_dir or f'work_dirs/{Path(args.config).stem}_teacher'
    conceal_teacher(config)
    config.model = {'type': 'EvaluatedTeacher', 'distiller': config.model, 'name': args.teacher}
    config.custom_hooks, config.load_from, config.resume = [], None, False
    config.test_dataloader, config.test_cfg = config.val_dataloader, config.get('test_cfg') or {}
    config.test_evaluator = config.val_evaluator
    runner = CheckedRunner.from_cfg(config)
    use_labels(runner, config)
    runner.test()


def use_labels(runner: CheckedRunner, config: Config) -> None:
    """Choose metrics for the teacher, and check that it knows the classes of the images.

    Raises:
        ConfigError: The images have no labels, or the teacher has other classes.
    """
    dataset, model = runner.build_dataloader(config.test_dataloader).dataset, runner.model
    for part in innermost_datasets(dataset):
        if lacks(part, 'gt_label'):
            raise ConfigError('val_dataloader: the images have no labels that predictions could be compared with')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    chosen = model.teacher.classes
    differ = bool(classes and model.num_classes and len(classes) != model.num_classes)
    if not model.predicts or (differ and chosen is None and not model.logits_are_read):
        print_log('The class of an image is that of its nearest neighbors by the pooled features of the teacher', 'current')
        model.predicts, runner._test_evaluator = False, {'type': 'KNNAccuracy'}
        return
    if differ:
        advice = (
            f"Name the student's classes among the teacher's in {model.teacher.key}.classes"
            if chosen is None
            else f'{chosen.key} must list one for each class of the images'
        )
        raise ConfigError(
            f'{model.teacher.key} predicts {model.num_classes} classes, and the images of val_dataloader have '
            f'{len(classes)}. {advice}'
        )
    if chosen is not None:
        compare_names(chosen, dataset, 'val_dataloader.dataset')
    metrics = config.val_evaluator if isinstance(config.val_evaluator, list) else [config.val_evaluator]
    metrics = [metric for metric in metrics if type_name(metric) not in OF_STUDENTS]
    runner._test_evaluator = metrics or {'type': 'Accuracy', 'topk': (1,)}


if __name__ == '__main__':
    with one_line_errors():
        main()
