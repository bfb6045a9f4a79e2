"""Importing the package."""

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


@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmpretrain'])
def test_a_missing_package_gives_one_error_that_names_both_extras(missing):
    code = f'import sys; sys.modules[{missing!r}] = None; import serkd_mm'
    last = run_python('-c', code, succeed=False).strip().splitlines()[-1]
    assert last.startswith('ImportError')
    assert 'serkd-mm[mmlab]' in last
    assert 'serkd-mm[onedl]' in last


def test_installing_the_plugin_touches_no_package_that_is_there():
    # Whatever this environment has, mmcv or mmcv-lite, the official packages or the forks, pip would install one package.
    command = ['-m', 'pip', 'install', '--dry-run', '--no-index', '--no-build-isolation', '--quiet']
    report = json.loads(run_python(*command, '--report', '-', '--editable', REPOSITORY))
    assert [package['metadata']['name'] for package in report['install']] == ['serkd-mm']


def test_what_is_installed_carries_configs_and_tools_that_work_from_there(tmp_path):
    source = copy_repository(tmp_path / 'source')
    run_python('setup.py', '--quiet', 'build', '--build-lib', tmp_path / 'installed', cwd=source)
    mim = tmp_path / 'installed' / 'serkd_mm' / '.mim'
    carried = {path.relative_to(mim) for path in mim.rglob('*.py')}
    for folder in ('configs', 'tools'):
        assert {path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob('*.py')} <= carried
    config = Config.fromfile(mim / 'configs' / 'serkd' / 'deit-s_mae-b.py')
    assert config.model.student.model.backbone.arch == 'deit-small'
    assert (mim / 'model-index.yml').is_file()


def test_mim_s_index_says_what_is_true_of_the_configs():
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


def test_version_is_the_one_that_is_installed():
    assert re.fullmatch(r'\d+\.\d+\.\d+', serkd_mm.__version__)
    assert serkd_mm.__version__ in (REPOSITORY / 'serkd_mm' / 'version.py').read_text()


def test_imports_run_downwards_only():
    layers = {
        'ops': 0,
        'safe_loading': 0,
        'tokenizers': 1,
        'mergers': 1,
        'losses': 1,
        'heads': 1,
        'hooks': 1,
        'distillers': 2,
        'visualization': 3,
    }
    for file in (REPOSITORY / 'serkd_mm').glob('*/*.py'):
        own = file.parent.name
        for other in re.findall(r'^from \.\.(\w+)', file.read_text(), flags=re.MULTILINE):
            assert layers[other] < layers[own], f'{file} imports {other}'


def test_importing_the_package_does_not_import_what_draws():
    code = "import sys, serkd_mm; print('matplotlib' in sys.modules)"
    assert run_python('-c', code).split()[-1] == 'False'


def test_the_operations_know_no_openmmlab():
    for file in (REPOSITORY / 'serkd_mm' / 'ops').glob('*.py'):
        assert not re.search(r'^(from|import) mm', file.read_text(), flags=re.MULTILINE), file
