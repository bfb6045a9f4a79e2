"""teacher.classes: the columns of the teacher's logits that are the student's classes, in the student's order."""

import copy
import re

import pytest
import torch
from builders import NUM_CLASSES, TEACHER, build_distiller, distiller_config, images, labels, training_config
from caches import VIEW_PREPROCESSOR, samples_with_records, write_teacher_cache
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.hooks import DataError

CLASSES = [7, 0, 9, 3]
FILES = {
    'indices': '7\n0\n9\n3\n',
    'names': '# the classes of the cars\n7 red  car\n\n0 blue_car # the old one\n9\tgreen car\tmore\n  3\n',
    'tsv': '\ufeff7\tred car\n0\tblue car\n9\tgreen\n3\tbox #4\n',
}
WIDE = dict(TEACHER, head=dict(TEACHER['head'], num_classes=10))


def wide_config(classes=None, **changes) -> dict:
    """Return the config of a student of 4 classes whose teacher knows 10."""
    return distiller_config(**{'teacher__model': copy.deepcopy(WIDE), 'teacher__classes': classes, **changes})


def logits_of(model, classes=slice(None)):
    """Return the columns of the logits of the teacher's plain model."""
    with torch.no_grad():
        return model.teacher.model(images(), mode='tensor')[:, classes]


@pytest.mark.parametrize('form', [None, *FILES])
def test_losses_read_the_columns_of_the_listed_classes(form, tmp_path):
    setting = CLASSES
    if form:
        (tmp_path / 'classes.txt').write_text(FILES[form], encoding='utf-8')
        setting = str(tmp_path / 'classes.txt')
    model = build_distiller(wide_config, classes=setting)
    assert model.teacher.classes.indices == tuple(CLASSES)
    if form == 'names':
        assert model.teacher.classes.names == ('red  car', 'blue_car', 'green car', None)
    expected = logits_of(model, CLASSES)
    student, teacher = model.extract_features(images())
    assert torch.equal(teacher['logits'].tensor, expected)
    assert teacher['patches'].tensor.shape == (4, 17, 24)  # Not logits: as they are.
    own = student['logits'].tensor.log_softmax(1)
    divergence = (expected.softmax(1) * (expected.log_softmax(1) - own)).sum(1).mean()
    torch.testing.assert_close(model(images(), labels(), mode='loss')['loss_kd'], divergence)


def test_the_config_says_how_many_classes_a_head_without_the_number_has():
    head = dict(type='VigClsHead', num_classes=10, in_channels=24, hidden_dim=8)
    model = build_distiller(wide_config, classes=CLASSES, teacher__model=dict(WIDE, head=head))
    assert not hasattr(model.teacher.model.head, 'num_classes')
    assert torch.equal(model.extract_features(images())[1]['logits'].tensor, logits_of(model, CLASSES))


MISTAKES = [
    # the setting or the text of a file, the message
    ([7, 0, 9], r'model\.teacher\.classes: 3 classes are listed, and the student has 4\.'),
    ([7, 0, 9, 3, 4], r'model\.teacher\.classes: 5 classes are listed, and the student has 4\.'),
    ([7, 0, 9, 10], r'model\.teacher\.classes: the class of label 3 is 10, but the teacher has the classes 0 to 9'),
    ([7, 0, 9, -1], r'model\.teacher\.classes\[3\]: -1 is not the index of a class'),
    ([7, 0, 9, 1.0], r'model\.teacher\.classes\[3\]: 1\.0 is not'),
    ([7, 0, 9, True], r'model\.teacher\.classes\[3\]: True is not'),
    ([7, 0, 9, 7], r"model\.teacher\.classes\[3\]: the teacher's class 7 is listed twice, before in .*\[0\]"),
    ([], r'model\.teacher\.classes lists no class'),
    (4, r'model\.teacher\.classes must be a list of indices or the path of a file, but is 4'),
    ('# none\n', r'classes\.txt.* lists no class'),
    ('7\n0\n9\nred 3\n', r"classes\.txt', line 4: 'red' is not the index of a class"),
    ('7\n# a\n0\n9\n7 red\n', r"classes\.txt', line 5: the teacher's class 7 is listed twice, before in .*line 1"),
    ('7\n0\n9\n12\n', r"classes\.txt': the class of label 3 is 12, but the teacher has the classes 0 to 9"),
]


@pytest.mark.parametrize(('setting', 'message'), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_name_the_place_and_the_range(setting, message, tmp_path):
    if isinstance(setting, str):
        (tmp_path / 'classes.txt').write_text(setting)
        setting = str(tmp_path / 'classes.txt')
    with pytest.raises(ConfigError, match=message):
        MODELS.build(wide_config(setting))


def test_missing_file_missing_head_and_missing_setting_are_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.teacher\.classes='gone\.txt' cannot be read: No such file"):
        MODELS.build(wide_config('gone.txt'))
    config = wide_config(CLASSES, teacher__model__head=None, losses__loss_kd=None)
    with pytest.raises(ConfigError, match=r"model\.teacher\.classes: the teacher's ImageClassifier has no class head"):
        MODELS.build(config)
    with pytest.raises(ConfigError, match=r'student \(2, 4\) and teacher \(2, 10\)\. The setting `classes` of the teacher'):
        MODELS.build(wide_config())
    several = wide_config(CLASSES)
    several.teachers = dict(wide=dict(several.pop('teacher'), classes=[1, 1]))
    with pytest.raises(ConfigError, match=r'model\.teachers\.wide\.classes\[1\]: '):
        MODELS.build(several)


def test_a_cache_holds_the_logits_of_the_classes_and_is_read_with_the_same_ones_only(tmp_path):
    model = build_distiller(wide_config, classes=CLASSES)
    (tmp_path / 'classes.txt').write_text(FILES['names'])
    manifest = write_teacher_cache(tmp_path / 'cache', model, images(), wide_config(CLASSES).teacher)
    assert manifest.teacher['classes'] == CLASSES
    (logits,) = [entry for entry in manifest.entries if entry.content == 'logits']
    assert logits.num_bytes == 4 * NUM_CLASSES

    def cached(**changes):
        classes = changes.pop('classes', CLASSES)
        config = wide_config(classes, teacher__cache=str(tmp_path / 'cache'), **changes)
        config.data_preprocessor = VIEW_PREPROCESSOR
        return MODELS.build(config)

    samples = samples_with_records(tmp_path / 'cache', labels())
    for changes in ({}, dict(classes=str(tmp_path / 'classes.txt')), dict(teacher__model=None)):
        built = cached(**changes)
        built.load_state_dict(model.state_dict())
        expected = model(images(), labels(), mode='loss')['loss_kd']
        torch.testing.assert_close(built(images(), samples, mode='loss')['loss_kd'], expected)
    for changes, difference in (
        (dict(classes=[7, 0, 3, 9]), r'model\.teacher\.classes\[2\] was 9 and is 3'),
        (dict(classes=None), r'model\.teacher\.classes was \[7, 0, 9, 3\] and is None'),
        (dict(classes=[7, 0, 3, 9], teacher__model=None), r'model\.teacher\.classes\[2\] was 9 and is 3'),
        (dict(classes=[7, 0, 3]), r'another teacher'),
    ):
        with pytest.raises(ConfigError, match=difference):
            cached(**changes)


@pytest.mark.usefixtures('runner_scope')
def test_names_are_compared_with_the_training_data_before_training(image_root, tmp_path):
    def training(text):
        (tmp_path / 'classes.txt').write_text(text)
        config = training_config(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 1})
        config.model.teacher.model = copy.deepcopy(WIDE)
        config.model.teacher.classes = str(tmp_path / 'classes.txt')
        return Runner.from_cfg(config)

    with pytest.raises(DataError) as error:
        training('7 class0\n0 class2\n9 class1\n3 class3\n').train()
    message = f"model.teacher.classes={str(tmp_path / 'classes.txt')!r}: the class of label 1 is 'class2', but 'class1' in"
    assert str(error.value).startswith(message)
    assert "'class2' has the label 2 there (labels that differ: 2, of " in str(error.value)
    assert not list((tmp_path / 'work').glob('*.pth'))
    runner = training('7 Class0\n0\n9 class2 # the third\n3 class3\n')
    runner.train()
    assert re.search(r'classes\.txt', runner.cfg.pretty_text)
