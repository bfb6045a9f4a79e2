"""The package: registered names, installation and imports."""

import json
import re
from pathlib import Path

import pytest
from builders import REPOSITORY, copy_repository, run_python
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmpretrain.registry import HOOKS, MODELS, OPTIM_WRAPPERS

import serkd_mm

MODEL_NAMES = [
    'RelationDistiller',
    'PatchTokenizer',
    'PoolTokenizer',
    'ConvTokenizer',
    'GridTokenizer',
    'SuperpixelMerger',
    'AvgPoolMerger',
    'MaxPoolMerger',
    'IdentityMerger',
    'SuperpixelRefiner',
    'TokenDistanceLoss',
    'TokenAngleLoss',
    'FeatureL2Loss',
    'InstanceDistanceLoss',
    'InstanceAngleLoss',
    'HardLabelLoss',
    'LogitKLLoss',
    'RRDLoss',
    'ChannelGraphLoss',
    'DeiTDistilledClsHead',
    'LeViTDistilledClsHead',
    'EfficientFormerDistilledClsHead',
    'ViewPreprocessor',
    'CRDResNet',
    'CRDWideResNet',
    'CRDVGG',
    'CRDShuffleNetV2',
]
HOOK_NAMES = [
    'PlainCheckpointHook',
    'SafeCheckpointHook',
    'EpochSeedHook',
    'FiniteLossHook',
    'LabelRangeHook',
    'ImageErrorHook',
    'SuperpixelVisualizationHook',
]


def test_components_are_in_mmpretrain_s_own_registries():
    for name in MODEL_NAMES:
        assert MODELS.module_dict[name].__module__.startswith('serkd_mm.'), name
    for name in HOOK_NAMES:
        assert name in HOOKS.module_dict
        assert name not in MMENGINE_HOOKS.module_dict
    assert 'AutocastOptimWrapper' in OPTIM_WRAPPERS.module_dict


@pytest.mark.slow
@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmpretrain'])
def test_a_missing_package_raises_one_error_that_names_both_extras(missing):
    code = f'import sys; sys.modules[{missing!r}] = None; import serkd_mm'
    last = run_python('-c', code, succeed=False).strip().splitlines()[-1]
    assert last.startswith('ImportError')
    assert 'serkd-mm[mmlab]' in last
    assert 'serkd-mm[onedl]' in last


@pytest.mark.slow
def test_installing_the_plugin_changes_no_installed_package():
    # Whether mmcv or mmcv-lite is installed, the official packages or the forks: pip would install the plugin only.
    command = ['-m', 'pip', 'install', '--dry-run', '--no-index', '--no-build-isolation', '--quiet']
    report = json.loads(run_python(*command, '--report', '-', '--editable', REPOSITORY))
    assert [package['metadata']['name'] for package in report['install']] == ['serkd-mm']


def test_an_installation_contains_configs_and_tools_that_work_from_there(tmp_path):
    source = copy_repository(tmp_path / 'source')
    run_python('setup.py', '--quiet', 'build', '--build-lib', tmp_path / 'installed', cwd=source)
    mim = tmp_path / 'installed' / 'serkd_mm' / '.mim'
    installed = {path.relative_to(mim) for path in mim.rglob('*.py')}
    for folder in ('configs', 'tools'):
        assert {path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob('*.py')} <= installed
    config = Config.fromfile(mim / 'configs' / 'serkd' / 'deit-s_mae-b.py')
    assert config.model.student.model.backbone.arch == 'deit-small'
    assert (mim / 'model-index.yml').is_file()


def test_the_model_index_agrees_with_the_configs():
    paths = load(REPOSITORY / 'model-index.yml')['Import']
    models = [model for path in paths for model in load(REPOSITORY / path)['Models']]
    assert len({model['Name'] for model in models}) == len(models) >= 5
    for model in models:
        assert Path(model['Config']).stem == model['Name']
        student = Config.fromfile(REPOSITORY / model['Config']).model
        student.teacher = None
        parameters = sum(weight.numel() for weight in MODELS.build(student).parameters())
        assert parameters == pytest.approx(model['Metadata']['Parameters'], rel=2e-3), model['Name']
        assert not model['Results'], 'nothing was run on ImageNet'


def test_version():
    assert re.fullmatch(r'\d+\.\d+\.\d+', serkd_mm.__version__)
    assert serkd_mm.__version__ in (REPOSITORY / 'serkd_mm' / 'version.py').read_text()


def test_imports_run_downwards_only():
    layers = {
        'ops': 0,
        'errors': -1,
        'seeding': -1,
        'config_files': -1,
        'config_errors': -1,
        'fileio': 0,
        'lazy_layers': 0,
        'analysis': 1,
        'tokenizers': 1,
        'mergers': 1,
        'losses': 1,
        'heads': 1,
        'teacher_cache': 1,
        'model_sources': 1,
        'evaluation': 1,
        'hooks': 3,
        'optim': 1,
        'distillers': 2,
        'visualization': 3,
        'strategies': 3,
        'runner': 4,
    }
    for file in (REPOSITORY / 'serkd_mm').glob('*/*.py'):
        own = file.parent.name
        for other in re.findall(r'^from \.\.(\w+)', file.read_text(), flags=re.MULTILINE):
            assert layers[other] < layers[own], f'{file} imports {other}'


@pytest.mark.slow
def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, serkd_mm; print('matplotlib' in sys.modules)"
    assert run_python('-c', code).split()[-1] == 'False'


def test_operations_do_not_import_openmmlab():
    for file in (REPOSITORY / 'serkd_mm' / 'ops').glob('*.py'):
        assert not re.search(r'^(from|import) mm', file.read_text(), flags=re.MULTILINE), file
