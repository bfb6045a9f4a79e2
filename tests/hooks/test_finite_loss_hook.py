"""A loss that is not a number stops the run, and nothing of it is saved."""

import pytest
import torch
from builders import training_config
from mmengine.runner import Runner

from serkd_mm.hooks import NonFiniteLossError

pytestmark = pytest.mark.usefixtures('runner_scope')


def test_the_run_stops_and_the_last_checkpoint_resumes(image_root, tmp_path):
    # From the fifth iteration on, the second of epoch 2, the learning rate is beyond all numbers.
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
    mended = training_config(image_root, tmp_path, resume=True)
    runner = Runner.from_cfg(mended)
    runner.train()
    assert runner.iter == 6


def test_weights_that_the_last_step_has_spoilt_are_not_saved(image_root, tmp_path):
    # From the sixth iteration on, the last of epoch 2: its loss is finite, its step is not.
    explode = [dict(type='MultiStepLR', milestones=[5], gamma=1e40, by_epoch=False)]
    config = training_config(image_root, tmp_path, param_scheduler=explode)
    config.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=10.0))
    config.default_hooks.checkpoint.max_keep_ckpts = 1
    config.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(NonFiniteLossError, match=r'iteration 6, epoch 2: \d+ of the weights .*epoch_1\.pth'):
        Runner.from_cfg(config).train()
    assert sorted(path.name for path in tmp_path.glob('epoch_*.pth')) == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')
