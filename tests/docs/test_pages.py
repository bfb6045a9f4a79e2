"""Pages of the documentation whose commands and code run as written."""

import importlib
import importlib.util
import re

import cv2
import pytest
import torch
from builders import copy_repository, distiller_config, images, labels, write_images
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from pages import DOCS, blocks, pattern, run_page, write_code
from sklearn.datasets import load_sample_image

from serkd_mm.analysis import RunLog
from serkd_mm.runner import CheckedRunner


@pytest.mark.slow
def test_page_on_training_without_the_teacher_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    output = run_page('teacher_cache.md', clone)
    ((_, printed),) = blocks(DOCS / 'user_guides' / 'teacher_cache.md', 'text')
    lines = [' '.join(line.split()) for line in output.splitlines()]
    for line in filter(lambda line: line.strip('─'), (' '.join(line.split()) for line in printed.splitlines())):
        assert any(re.fullmatch(pattern(line), other) for other in lines), line
    assert 'records of data/relations were recomputed: their images are the same' in output
    assert {path.stem for path in (clone / 'data' / 'family').glob('*.py')} == {'student_serkd', 'student_kd'}
    cached, live = (RunLog(clone / 'work_dirs' / name) for name in ('student_relations_cached', 'live'))
    assert set(cached.terms) == {'loss', 'loss_cls', 'loss_kd', 'loss_rd', 'loss_ra'}
    for name in cached.terms:
        with_teacher = [value for _, value in live.term(name)]
        assert [value for _, value in cached.term(name)] == pytest.approx(with_teacher, rel=2e-2), name
        assert len(with_teacher) == 6


@pytest.mark.slow
def test_page_on_teachers_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    cv2.imwrite(str(clone / 'flower.jpg'), load_sample_image('flower.jpg')[..., ::-1])
    output = run_page('teachers.md', clone)
    assert "Wrote checkpoints/efficientnet-lite0.pth: model='timm:tf_efficientnet_lite0'" in output
    assert "The teacher's weights: checkpoints/efficientnet-lite0.pth" in output
    assert cv2.imread(str(clone / 'work_dirs' / 'superpixels' / 'flower.png')).std() > 10
    for name, classes in {'no_head': None, 'pets': 4}.items():
        model = Config.fromfile(clone / 'configs' / 'mine' / f'{name}.py').model
        model.teacher.update(checkpoint=None, allow_random_teacher=True)
        built = MODELS.build(model)
        assert {'loss_rd', 'loss_ra', 'loss_feat'} <= set(built.distill.losses)
        assert ('loss_kd' in built.distill.losses) == (classes is not None)
        assert classes is None or built.teacher(images(size=224))['logits'].tensor.shape == (4, classes)


@pytest.mark.usefixtures('runner_scope')
def test_children_of_the_configs_on_teachers_read_class_folders_and_bring_a_loss_back(tmp_path, monkeypatch):
    clone, page = copy_repository(tmp_path / 'clone'), DOCS / 'user_guides' / 'teachers.md'
    files = {file.stem: file for file in (write_code(code, clone) for _, code in blocks(page, 'python'))}
    for split in ('train', 'val'):
        write_images(clone / 'data' / 'pets' / split, per_class=1)
    monkeypatch.chdir(clone)
    config = Config.fromfile(files['pet_folders'])
    init_default_scope('mmpretrain')  # As every Runner does.
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        dataset = CheckedRunner.build_dataloader(loader).dataset
        assert len(dataset.CLASSES) == config.data_preprocessor.num_classes == 4
        assert dataset[0]['inputs'].shape == (3, 224, 224)
        assert split == 'train' or config[f'{split}_evaluator'].topk == (1,)
    (loss,) = re.findall(r'brings the loss back with\n`(.*)`', page.read_text())
    child = files['no_head'].with_name('child.py')
    child.write_text(f"_base_ = './no_head.py'\nmodel = dict(losses=dict({loss}))\n")
    assert Config.fromfile(child).model.losses.loss_kd == dict(type='LogitKLLoss', on='logits')


def test_custom_loss_and_merger_of_the_page_on_extending_work(tmp_path, monkeypatch):
    files = [write_code(code, tmp_path) for _, code in blocks(DOCS / 'advanced_guides' / 'extending.md', 'python')]
    assert [file.name for file in files] == ['my_losses.py', 'my_label_losses.py', 'my_mergers.py', 'rows.py']
    assert all(len(file.read_text().strip().splitlines()) <= 24 for file in files)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('my_losses', 'my_label_losses', 'my_mergers'):
        importlib.import_module(name)
    settings = {}
    exec(files[3].read_text(), settings)  # A child config: assignments alone.
    model = distiller_config()
    model.views.update(settings['model']['views'])
    model.losses.update(settings['model']['losses'])
    built = MODELS.build(model).train()
    values = {}
    for progress in (0.0, 1.0):
        built.set_progress(progress)
        losses = built(images(), labels(), mode='loss')
        values[progress] = losses['loss_right'].item()
    (losses['loss_rows'] + losses['loss_right']).backward()
    assert losses['loss_rows'] > 0
    assert values[0.0] < values[1.0]  # At first, images that the teacher gets wrong do not count.
    divergence = MODELS.build(dict(type='LogitKLLoss'))
    student, teacher = (side['logits'].tensor for side in built.extract_features(images()))
    assert values[1.0] == pytest.approx(divergence(student, teacher).item(), rel=1e-4)
    merged, association = built.distill.views['rows'].merger.associate(torch.randn(2, 5, 3, 4))
    assert (merged.shape, association.shape) == ((2, 5, 3, 1), (2, 12, 3))
    assert torch.equal(association.sum(dim=2), torch.ones(2, 12))
