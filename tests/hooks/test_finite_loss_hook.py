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
