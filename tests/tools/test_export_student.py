"""A student of timm in the whole pipeline, and the student alone in a process without this package and its hosts."""

import json
import pickle
import runpy
import sys
from copy import deepcopy

import mmengine
import mmpretrain
import pytest
import torch
from builders import CONFIGS, REPOSITORY, images, read_config, run_command, run_python, training_config, write_images
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from training_variants import EVALUATION, TIMM_STUDENT, unlabeled_config

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.model_parts import pooled_features

pytest.importorskip('timm')
pytestmark = pytest.mark.usefixtures('runner_scope')

TOOL = REPOSITORY / 'tools' / 'export_student.py'
# Runs the printed lines, and saves what the model computes.
FOREIGN = """
import sys
for name in ('serkd_mm', 'mmengine', 'mmpretrain', 'mmcv'):
    sys.modules[name] = None
import timm, torch
images = torch.load('images.pth')
torch.save([eval(line).eval()(images) for line in sys.argv[1:]], 'outputs.pth')
"""


def export(monkeypatch, capsys, *arguments):
    """Run the tool in this process, and return what it prints."""
    capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', ['export_student.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')
    return capsys.readouterr().out


def outputs_elsewhere(folder, pictures, *lines):
    """Load models by lines of code in a process that imports neither this package nor mmengine, and run them."""
    torch.save(pictures, folder / 'images.pth')
    run_python('-c', FOREIGN, *lines, cwd=folder, PYTHONPATH='')
    return torch.load(folder / 'outputs.pth', weights_only=True)


def predictions(config, path):
    """Evaluate a config, and return metrics and scores of each image."""
    metric = dict(type='DumpResults', out_file_path=str(path))
    config.test_evaluator = [dict(type='Accuracy', topk=1), metric]
    metrics = Runner.from_cfg(config).test()
    return metrics, torch.stack([sample['pred_score'] for sample in pickle.loads(path.read_bytes())])


@pytest.mark.slow
def test_student_of_timm_is_a_plain_model_of_timm(image_root, tmp_path, monkeypatch, capsys):
    def config_of(**changes):
        config = training_config(image_root, tmp_path / 'work', **changes)
        config.model.student = dict(model=deepcopy(TIMM_STUDENT), taps=dict(patches='model.blocks[-1]', logits='model'))
        config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
        config.train_cfg.max_epochs = 1
        for split in ('val', 'test'):
            config[f'{split}_dataloader'] = dict(config.val_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
            config[f'{split}_dataloader']['dataset'] = dict(config.val_dataloader.dataset, pipeline=EVALUATION)
        return config

    config = config_of()
    config.dump(tmp_path / 'config.py')
    runner = Runner.from_cfg(config)
    runner.train()
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'

    # Ours without the teacher, and mmpretrain's own class from the plain config.
    ours = config_of(load_from=str(checkpoint))
    ours.model.teacher = None
    ours.custom_hooks = [dict(type='CompleteCheckpointHook')]
    plain = config_of(load_from=str(checkpoint))
    plain.model, plain.custom_hooks = deepcopy(TIMM_STUDENT), []
    results = [predictions(each, tmp_path / 'scores.pkl') for each in (ours, plain)]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])

    # timm alone, from both formats; what mmengine stores as state_dict are the averaged weights.
    lines = []
    for name in ('student.pth', 'student.safetensors'):
        report = export(monkeypatch, capsys, tmp_path / 'config.py', checkpoint, tmp_path / name)
        assert f'Wrote {tmp_path / name}' in report
        lines.append(report.strip().splitlines()[-1])
        assert lines[-1].startswith("timm.create_model('vit_tiny_patch16_224', depth=2, img_size=32, num_classes=4, patch")
    model = MODELS.build(dict(ours.model, data_preprocessor=ours.data_preprocessor)).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    expected = model(images())
    assert all(torch.equal(found, expected) for found in outputs_elsewhere(tmp_path, images(), *lines))
    assert not torch.equal(expected, runner.model.eval()(images()))
    with pytest.raises(SystemExit):
        export(monkeypatch, capsys, tmp_path / 'config.py', checkpoint, checkpoint)
    assert 'is the checkpoint itself' in capsys.readouterr().err


def test_resuming_without_labels_is_bit_exact_and_the_export_has_no_head(image_root, tmp_path, monkeypatch, capsys):
    for name, settings in {'whole': {}, 'first': {'train_cfg.max_epochs': 1}, 'parts': {'resume': True}}.items():
        folder = tmp_path / ('whole' if name == 'whole' else 'parts')
        config = unlabeled_config(image_root, folder, **settings)
        config.val_evaluator = dict(type='DistillationLosses')
        Runner.from_cfg(config).train()
    whole, parts = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('whole', 'parts'))
    assert all(torch.equal(value, parts['state_dict'][name]) for name, value in whole['state_dict'].items())
    assert whole['state_dict'].keys() == parts['state_dict'].keys()

    config.dump(tmp_path / 'config.py')
    out = tmp_path / 'student.pth'
    report = export(monkeypatch, capsys, tmp_path / 'config.py', tmp_path / 'whole' / 'epoch_2.pth', out)
    assert 'Left out, because nothing has trained it: the class head (head.weight, head.bias)' in report
    saved = torch.load(out, weights_only=True)['state_dict']
    assert saved.keys() == {name for name in whole['state_dict'] if not name.startswith(('head.', 'distill.'))}


@pytest.mark.slow
def test_training_without_labels_on_two_processes(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / 'pictures' / 'train', per_class=2)
    write_images(tmp_path / 'pictures' / 'val', per_class=1, seed=1)
    (tmp_path / 'pictures' / 'train' / 'class0' / '0.jpg').rename(tmp_path / 'pictures' / 'train' / 'loose.jpg')
    config, work_dir = CONFIGS / 'serkd' / 'resnet18_dinov2-s_unlabeled.py', tmp_path / 'work'
    data = [f'{split}_dataloader.dataset.data_root={tmp_path / "pictures"}' for split in ('train', 'val')]
    data += [f'{split}_dataloader.{name}' for split in ('train', 'val') for name in ('num_workers=0', 'batch_size=2')]
    training = ['model.teacher.checkpoint=None', 'model.teacher.allow_random_teacher=True', 'train_cfg.max_epochs=1']
    training += ['default_hooks.logger.interval=1']
    command = [REPOSITORY / 'tools' / 'dist_train.sh', config, 2, '--work-dir', work_dir, '--cfg-options', *training, *data]
    output = run_command(*command)
    assert 'No loss reads these parts of the student, so they are not trained and are frozen: model.fc' in output
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [entry for entry in entries if 'loss' in entry]
    assert len(steps) == 2
    assert all({'loss_feat', 'loss_rd', 'loss_ra'} <= entry.keys() and 'loss_cls' not in entry for entry in steps)
    validated = next(entry for entry in entries if 'distillation/loss' in entry)
    assert validated['distillation/loss'] == pytest.approx(
        sum(validated[f'distillation/{name}'] for name in ('loss_feat', 'loss_rd', 'loss_ra'))
    )
    assert (work_dir / 'best_distillation_loss_epoch_1.pth').exists()

    checkpoint, out = work_dir / 'epoch_1.pth', tmp_path / 'student.safetensors'
    report = export(monkeypatch, capsys, config, checkpoint, out)
    line = report.strip().splitlines()[-1]
    assert line == f"timm.create_model('resnet18', num_classes=0, checkpoint_path={str(out)!r})"
    student = MODELS.build(dict(type='TimmClassifier', model_name='resnet18')).eval()
    student.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'], strict=False)
    (found,) = outputs_elsewhere(tmp_path, images(size=64), line)
    assert torch.equal(found, pooled_features(student, images(size=64)))


def test_a_student_of_another_image_size_than_timm_s(tmp_path, monkeypatch, capsys):
    config = training_config(tmp_path, tmp_path / 'work', **{'model.input_size': (3, 32, 32)})
    student = {name: value for name, value in TIMM_STUDENT.items() if name != 'img_size'}
    config.model.student = dict(model=student, taps=dict(patches='model.blocks[-1]', logits='model'))
    config.dump(tmp_path / 'config.py')
    model = MODELS.build(dict(config.model, data_preprocessor=config.data_preprocessor)).eval()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'checkpoint.pth')
    report = export(monkeypatch, capsys, tmp_path / 'config.py', tmp_path / 'checkpoint.pth', tmp_path / 'student.pth')
    line = report.strip().splitlines()[-1]
    assert ', img_size=(32, 32), checkpoint_path=' in line
    loaded = eval(line, dict(timm=pytest.importorskip('timm'))).eval()
    assert torch.equal(loaded(images()), model(images()))


def test_evaluation_leaves_out_the_losses_that_need_the_teacher(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    adapt = runpy.run_path(str(TOOL.parent / 'test.py'))['adapt']
    config = read_config('serkd/resnet18_dinov2-s_unlabeled.py')
    adapt(config)
    assert config.model.teacher is None
    assert config.test_evaluator == dict(type='KNNAccuracy')
    config.test_evaluator = [dict(type='DistillationLosses'), dict(type='KNNAccuracy')]
    adapt(config)
    assert config.test_evaluator == [dict(type='KNNAccuracy')]
    assert 'DistillationLosses is left out' in capsys.readouterr().err
    config.test_evaluator = dict(type='DistillationLosses')
    with pytest.raises(ConfigError, match=r'^test_evaluator: DistillationLosses needs the teacher'):
        adapt(config)


@pytest.mark.parametrize('losses', ['labels', 'relations'])
def test_student_of_hugging_face_is_written_as_a_folder(losses, tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip('transformers')
    small = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    published = transformers.ViTConfig(**small, num_labels=4, architectures=['ViTForImageClassification'])
    published.save_pretrained(tmp_path / 'published')
    (tmp_path / 'published' / 'preprocessor_config.json').write_text(
        json.dumps(dict(image_mean=[0.5] * 3, image_std=[0.5] * 3))
    )
    config = training_config(tmp_path, tmp_path / 'work')
    config.model.student = dict(model=f'hf:{tmp_path / "published"}', taps=None)
    if losses == 'relations':
        config.model.losses.update(loss_cls=None, loss_kd=None)
    config.dump(tmp_path / 'config.py')
    model = MODELS.build(dict(config.model, data_preprocessor=config.data_preprocessor))
    checkpoint = dict(state_dict=model.state_dict(), meta=dict(untrained_head=model.untrained_head))
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    report = export(monkeypatch, capsys, tmp_path / 'config.py', tmp_path / 'checkpoint.pth', tmp_path / 'student')
    student, net = model.eval().student.model, eval(report.strip().splitlines()[-1]).eval()
    if losses == 'labels':
        assert torch.equal(net(images()).logits, student(images()).logits)
    else:
        assert 'Left out, because nothing has trained it: the class head (classifier.' in report
        expected = student.base_model(images()).last_hidden_state
        assert torch.equal(net(images()).last_hidden_state, expected)
    with pytest.raises(SystemExit):
        export(monkeypatch, capsys, tmp_path / 'config.py', tmp_path / 'checkpoint.pth', tmp_path / 'student.pth')
    assert 'is written to a folder' in capsys.readouterr().err


@pytest.mark.parametrize('losses', ['labels', 'relations'])
def test_student_of_mmpretrain_is_loaded_by_mmpretrain(losses, tmp_path, monkeypatch, capsys):
    config = training_config(tmp_path, tmp_path / 'work')
    if losses == 'relations':
        config.model.losses.update(loss_cls=None, loss_kd=None)
    config.dump(tmp_path / 'config.py')
    model = MODELS.build(dict(config.model, data_preprocessor=config.data_preprocessor))
    model.init_weights()
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(untrained_head=model.untrained_head)), tmp_path / 'checkpoint.pth'
    )
    report = export(monkeypatch, capsys, tmp_path / 'config.py', tmp_path / 'checkpoint.pth', tmp_path / 'student.pth')
    assert 'Its input: images of 0 to 255 minus [123.675, 116.28, 103.53], divided by [58.395, ' in report
    line = report.strip().splitlines()[-1]
    assert 'DeiTDistilledClsHead' not in line
    loaded = eval(line, dict(mmpretrain=mmpretrain, mmengine=mmengine))
    if losses == 'labels':
        assert torch.equal(loaded(images()), model.eval()(images()))
    else:
        assert loaded.head is None
        (patches, *_), (expected, *_) = loaded(images()), model.eval().extract_feat(images())
        assert torch.equal(patches[0], expected[0])
