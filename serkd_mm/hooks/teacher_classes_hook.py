from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import Dataset

from ..distillers.teacher_classes import TeacherClasses
from .class_names_hook import labels_by_class
from .data_errors import DataError, built_datasets, innermost_datasets
from .runner_models import unwrapped_model


@HOOKS.register_module()
class TeacherClassesHook(Hook):
    """Compare the names in a file of ``teacher.classes`` with the classes of the training data, before the first iteration.

    In another order, each image would be distilled with the logits of another class. Names are compared without regard to
    case, and ``_`` and ``-`` are spaces. Indices without names, and datasets without names of classes, are not compared.
    """

    def before_run(self, runner: Runner) -> None:
        """Compare the names of each teacher's file with those of each training dataset.

        Raises:
            DataError: A label has another name in the file, or the file has no line for a label.
        """
        model = unwrapped_model(runner)
        dataset = dict(built_datasets(runner)).get('train_dataloader.dataset')
        for teacher in getattr(model, 'teachers', {}).values():
            if teacher.classes is not None and dataset is not None:
                compare_names(teacher.classes, dataset, 'train_dataloader.dataset')


def compare_names(classes: TeacherClasses, dataset: Dataset, where: str) -> None:
    """Compare the names in a file of classes with those of a dataset and of the datasets inside it.

    Args:
        classes: The classes, with or without names.
        dataset: The dataset.
        where: Its config key, for messages.

    Raises:
        DataError: A label has another name in the file; the message has the first one.
    """
    for part in innermost_datasets(dataset):
        _compare(classes, part, where)


def _compare(classes: TeacherClasses, dataset: Dataset, where: str) -> None:
    known = _names_by_label(dataset)
    pairs = [(label, name, known[label]) for label, name in enumerate(classes.names) if name and label in known]
    wrong = [(label, name, names) for label, name, names in pairs if _spelled(name) not in map(_spelled, names)]
    if not wrong:
        return
    label, name, names = wrong[0]
    elsewhere = [other for other, others in known.items() if _spelled(name) in map(_spelled, others)]
    has = f'; {name!r} has the label {elsewhere[0]} there' if elsewhere else ''
    raise DataError(
        f'{classes.key}: the class of label {label} is {name!r}, but {names[0]!r} in {where}{has} (labels that differ: '
        f'{len(wrong)}, of {len(classes.names)} in the file and {len(known)} in the data). List the classes in the order of '
        'the labels: class folders are numbered in alphabetical order'
    )


def _names_by_label(dataset: Dataset) -> dict[int, list[str]]:
    """The names of each label: that of its folder, and that in the meta information of the dataset."""
    names: dict[int, list[str]] = {}
    for name, label in labels_by_class(dataset).items():
        names.setdefault(label, []).append(str(name))
    for label, name in enumerate(getattr(dataset, 'metainfo', {}).get('classes') or ()):
        names.setdefault(label, []).append(str(name))
    return names


def _spelled(name: str) -> str:
    return ' '.join(name.casefold().replace('_', ' ').replace('-', ' ').split())
