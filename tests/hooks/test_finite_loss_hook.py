"""A non-finite loss stops the run, and this state is not saved."""

import pytest
import torch
from builders import training_config
from mmengine.runner import Runner

from serkd_mm.hooks import NonFiniteLossError

pytestmark = pytest.mark.usefixtures('runner_scope')


def test_non_finite_loss_stops_the_run_and_the_last_checkpoint_resumes(image_root, tmp_path):
    # From iteration 5 on, the second of epoch 2, the learning rate is far too large.
    explode = [dict(type='MultiStepLR', milestones=[4], gamma=1e30, by_epoch=False)]
    config = training_config(image_root, tmp_path, param_scheduler=explode)
    with pytest.raises(NonFiniteLossError) as error:
        Runner.from_cfg(config).train()
    message = str(error.value)
    assert 'iteration 6, epoch 2: ' in message
    assert all(f'{name}=' in message for name in ('loss', 'loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra'))
    assert 'epoch_1.pth' in message
    assert 'clip_grad' in message

    assert sorted(path.name for path in tmp_path.glob('epoch_*.pth')) == ['epoch_1.pth']
    weights = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['state_dict']
    assert all(weight.isfinite().all() for weight in weights.values())
    fixed = training_config(image_root, tmp_path, resume=True)
    runner = Runner.from_cfg(fixed)
    runner.train()
    assert runner.iter == 6


def test_non_finite_weights_after_the_last_step_are_not_saved(image_root, tmp_path):
    # From iteration 6 on, the last of epoch 2, whose loss is finite and whose step is not.
    explode = [dict(type='MultiStepLR', milestones=[5], gamma=1e40, by_epoch=False)]
    config = training_config(image_root, tmp_path, param_scheduler=explode)
    config.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=10.0))
    config.default_hooks.checkpoint.max_keep_ckpts = 1
    config.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(NonFiniteLossError, match=r'iteration 6, epoch 2: \d+ of the weights .*epoch_1\.pth'):
        Runner.from_cfg(config).train()
    assert sorted(path.name for path in tmp_path.glob('epoch_*.pth')) == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')
