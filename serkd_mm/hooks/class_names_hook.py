import difflib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import Dataset

from .data_errors import DataError, built_datasets, innermost_datasets, labeled_datasets
from .runner_models import unwrapped_model

_SYSTEM_FOLDERS = (
    '__MACOSX',
    '__pycache__',
    '@eaDir',
    '#recycle',
    '$RECYCLE.BIN',
    'System Volume Information',
    'lost+found',
)


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Compare the classes of training, validation and test data, and of a checkpoint, before the first iteration.

    mmpretrain numbers class folders in alphabetical order, so one folder too many or too few shifts all labels after it.
    The hook compares names, and reads no image. Datasets without names of classes are not checked. Where ``classes`` is set
    in the config, folders may have other names, and only folders of equal names and different labels are reported. The
    training images of a training without labels (``loss_cls=None``) may be in any folders.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the class folders of each dataset, and compare the datasets.

        Raises:
            DataError: A folder of the operating system or of a tool counts as a class, a class has different labels in two
                datasets, or a dataset has a class that the training data lack.
        """
        first = None
        for key, dataset in labeled_datasets(runner):
            for part in innermost_datasets(dataset):
                check_class_folders(part, key)
                if labels_by_class(part):
                    first = first or (key, part)
                    _compare(*first, key, part)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the classes of a checkpoint that is tested or resumed with those of the data.

        Raises:
            DataError: A class has another label in the data.
        """
        datasets = dict(built_datasets(runner))
        classes = checkpoint.get('meta', {}).get('dataset_meta', {}).get('classes') or ()
        if 'train_dataloader.dataset' in datasets and not runner._resume:
            return  # A pretrained model may have been trained on other data.
        if getattr(unwrapped_model(runner), 'label_free', False):
            return  # The checkpoint has the folders of images whose labels nothing has read.
        for key, dataset in datasets.items():
            for part in innermost_datasets(dataset):
                _check_labels_agree('the checkpoint', _numbered(classes), f'{key}{_where(part)}', labels_by_class(part))


def check_class_folders(dataset: Dataset, key: str, names: Iterable[str] | None = None) -> None:
    """Report folders among the classes that no user has made as such.

    Args:
        dataset: A dataset; only one of class folders is checked.
        key: Config key of the dataset.
        names: Names of the class folders. Default: None, those that the dataset has found.

    Raises:
        DataError: There is such a folder.
    """
    names = getattr(dataset, 'folder_to_idx', None) or () if names is None else names
    wrong = sorted(name for name in names if name.startswith('.') or name in _SYSTEM_FOLDERS)
    if wrong:
        paths = ', '.join(str(Path(dataset.img_prefix) / name) for name in wrong)
        raise DataError(
            f'{key}: {paths} would count as a class, because every folder does, and would shift the labels of the folders '
            'after it. Remove it'
        )


def labels_by_class(dataset: Dataset) -> Mapping[str, int]:
    """Return the label of each class: by its folder, or else by its name in the dataset's meta information."""
    folders = getattr(dataset, 'folder_to_idx', None)
    return folders or _numbered(getattr(dataset, 'metainfo', {}).get('classes') or ())


def _numbered(classes: Iterable[str]) -> dict[str, int]:
    return {name: label for label, name in enumerate(classes)}


def _where(dataset: Dataset) -> str:
    return f' ({dataset.img_prefix})' if getattr(dataset, 'folder_to_idx', None) else ''


def _compare(first_key: str, first: Dataset, key: str, other: Dataset) -> None:
    """Compare the classes of two datasets."""
    labels, other_labels = labels_by_class(first), labels_by_class(other)
    here, there = f'{first_key}{_where(first)}', f'{key}{_where(other)}'
    _check_labels_agree(here, labels, there, other_labels)
    missing, extra = _without(labels, other_labels), _without(other_labels, labels)
    if extra and _named_by_folders(first) and _named_by_folders(other):
        raise DataError(f'{there} has class folders that {here} lacks: {_listed(extra, missing)}. {_ADVICE}')
    if missing and not extra:
        print_log(f'{there} has no class {_listed(missing)}, which {here} has', logger='current', level=logging.WARNING)


_ADVICE = (
    'Class folders are numbered in alphabetical order, so they must be the same on both sides: rename, add or remove '
    'folders, or list the images and their labels in an ann_file'
)


def _check_labels_agree(here: str, labels: Mapping[str, int], there: str, other_labels: Mapping[str, int]) -> None:
    shifted = [name for name, label in other_labels.items() if labels.get(name, label) != label]
    if shifted:
        name = shifted[0]
        missing, extra = _without(labels, other_labels), _without(other_labels, labels)
        causes = [f'only {here} has {_listed(missing, extra)}'] if missing else []
        causes += [f'only {there} has {_listed(extra, missing)}'] if extra else []
        raise DataError(
            f'{there}: class {name!r} has the label {other_labels[name]}, but {labels[name]} in {here} (labels that differ: '
            f'{len(shifted)}). {"; ".join(causes) or "The order differs"}. {_ADVICE}'
        )


def _without(labels: Mapping[str, int], others: Mapping[str, int]) -> list[str]:
    return [name for name in labels if name not in others]


def _listed(names: list[str], renamed: Iterable[str] = ()) -> str:
    """Up to five names, each with the name that it may have been renamed from."""
    cells = []
    for name in names[:5]:
        near = difflib.get_close_matches(str(name), map(str, renamed), n=1)
        cells.append(f'{name!r}' + (f' (renamed from {near[0]!r}?)' if near else ''))
    return ', '.join(cells) + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def _named_by_folders(dataset: Dataset) -> bool:
    """Whether the folders name the classes, and not ``classes`` in the config."""
    folders = getattr(dataset, 'folder_to_idx', None)
    return bool(folders) and list(dataset.metainfo.get('classes', ())) == list(folders)
