"""FSDP with mmengine's FlexibleRunner, on two gloo processes; run as a script, this file is one rank."""

import os
import sys
from pathlib import Path

import pytest
import torch
from builders import STUDENT, build_distiller, images, leave_ranks, run_ranks, training_config
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from mmpretrain.registry import MODELS
from torch import distributed

from serkd_mm.config_errors import ConfigError
from serkd_mm.strategies import StudentFSDPStrategy

DDP = dict(type='DDPStrategy', model_wrapper=dict(type='MMDistributedDataParallel', device_ids=None))
POLICY = 'torch.distributed.fsdp.wrap.size_based_auto_wrap_policy'
FSDP = dict(type='StudentFSDPStrategy', model_wrapper=dict(auto_wrap_policy=dict(type=POLICY, min_num_params=1000)))
BFLOAT16 = dict(type='StudentFSDPStrategy', model_wrapper=dict(mixed_precision=dict(param_dtype='bfloat16')))


def train(root, work_dir, strategy, validate=False, **changes):
    """Train the small pair with clipping that takes effect, and with a queue."""
    config = training_config(root, work_dir, **changes)
    config.update(runner_type='FlexibleRunner', launcher='pytorch', strategy=strategy, experiment_name=work_dir.name)
    config.visualizer = None
    if not validate:
        config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.default_hooks.checkpoint.pop('save_best')
    config.env_cfg.dist_cfg.backend = 'gloo'
    config.optim_wrapper.clip_grad = dict(max_norm=0.05)
    config.model.losses.loss_rrd = dict(type='RRDLoss', on='tokens', queue_size=16, embed_dim=8)
    config.model.teacher.dtype = 'bfloat16'
    runner = RUNNERS.build(config)
    assert isinstance(runner, FlexibleRunner)
    runner.train()
    return runner


def run_rank(rank, folder, root):
    """Train with DDP, with FSDP, resumed, and in mixed precision; then try what is refused."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    torch.cuda.set_device = lambda device: None
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    train(root, folder / 'ddp', DDP)
    runner = train(root, folder / 'fsdp', FSDP)
    sharded = sum(weight.numel() for weight in runner.model.parameters())
    assert sharded < 0.6 * sum(value.numel() for value in build_distiller().parameters())
    assert {weight.dtype for weight in runner.model.module.teacher.parameters()} == {torch.float32, torch.bfloat16}
    train(root, folder / 'resumed', FSDP, resume=str(folder / 'fsdp' / 'epoch_1.pth'))
    train(root, folder / 'bfloat16', BFLOAT16)
    with pytest.raises(ConfigError, match='StudentFSDPStrategy'):
        train(root, folder / 'refused', dict(FSDP, type='FSDPStrategy', model_wrapper=dict(device_id='cpu')))
    with pytest.raises(ConfigError, match='auto_wrap_policy shards parts'):
        train(root, folder / 'label_free', FSDP, **{'model.losses.loss_cls': None, 'model.losses.loss_kd': None})
    with pytest.raises(ConfigError, match=r'^val_evaluator: KNNAccuracy runs parts of the student'):
        train(root, folder / 'neighbors', FSDP, validate=True, val_evaluator=dict(_delete_=True, type='KNNAccuracy'))
    with pytest.raises(ConfigError, match='EMAHook'):
        train(root, folder / 'ema', FSDP, custom_hooks=[dict(type='StrategyHook'), dict(type='EMAHook')])
    leave_ranks()


@pytest.mark.slow
def test_fsdp_trains_as_ddp_and_saves_plain_students(image_root, tmp_path):
    run_ranks(__file__, 2, tmp_path, image_root)

    def weights(name):
        saved = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)['state_dict']
        return {key.removeprefix('module.'): value for key, value in saved.items()}  # mmengine's DDPStrategy adds it

    ddp, fsdp, resumed, bfloat16 = map(weights, ('ddp', 'fsdp', 'resumed', 'bfloat16'))
    assert list(fsdp) == list(ddp)
    assert 'backbone.cls_token' in torch.load(tmp_path / 'fsdp' / 'epoch_1.pth', weights_only=True)['state_dict']
    for name, value in ddp.items():
        torch.testing.assert_close(fsdp[name], value, rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(resumed[name], fsdp[name], rtol=0, atol=0, msg=name)
        assert bfloat16[name].dtype == value.dtype
    optimizers = [
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)['optimizer'] for name in ('fsdp', 'resumed')
    ]
    assert optimizers[0]['base_param_settings']['lr'] == optimizers[1]['base_param_settings']['lr'] > 0
    for name, state in optimizers[0]['state'].items():
        assert all(torch.equal(value, optimizers[1]['state'][name][key]) for key, value in state.items()), name
    student = MODELS.build(dict(STUDENT))
    assert not student.load_state_dict(fsdp, strict=False).missing_keys
    assert student(images()).isfinite().all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(state_dict_cfg='local'), "must be 'full', but is 'local'"),
        (dict(model_wrapper=dict(use_orig_params=False)), 'use_orig_params must be True'),
    ],
)
def test_settings_that_would_not_save_or_train_right_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        StudentFSDPStrategy(**settings)


@pytest.mark.usefixtures('runner_scope')
def test_an_optimizer_of_weights_in_half_precision_is_refused(image_root, tmp_path):
    runner = Runner.from_cfg(training_config(image_root, tmp_path / 'work'))
    runner.model.student.bfloat16()
    with pytest.raises(ConfigError, match=r'updates weights in .*bfloat16'):
        runner.train()


def test_a_student_built_in_half_precision_is_refused():
    torch.set_default_dtype(torch.bfloat16)
    try:
        with pytest.raises(ConfigError, match='weights are in half precision'):
            build_distiller()
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == '__main__':
    run_rank(int(sys.argv[3]), Path(sys.argv[1]), sys.argv[2])
