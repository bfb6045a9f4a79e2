"""A non-finite loss stops the run, and this state is not saved."""

from types import SimpleNamespace

import pytest
import torch
from builders import training_config
from mmengine.runner import Runner

from serkd_mm.hooks import FiniteStateHook, NonFiniteLossError

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


def test_optimizer_state_that_is_not_finite_is_not_saved(image_root, tmp_path):
    # Squared gradients overflow in Adam's second moment; its step is then 0, and weights and losses stay finite.
    huge = {'model.losses.loss_feat.loss_weight': 1e24, 'optim_wrapper.clip_grad': None}
    runner = Runner.from_cfg(training_config(image_root, tmp_path, **huge))
    with pytest.raises(NonFiniteLossError, match=r'iteration 3, epoch 1: \d+ of the entries of the optimizer .*exp_avg_sq'):
        runner.train()
    assert all(weight.isfinite().all() for weight in runner.model.state_dict().values())
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('part', ['state_dict', 'ema_state_dict', 'optimizer'])
def test_every_part_of_a_checkpoint_is_checked(part, value, tmp_path):
    tensors = {'a': torch.ones(3), 'b': torch.tensor([0.0, value, 1.0], dtype=torch.bfloat16), 'c': torch.ones(0)}
    tensors['d'] = torch.ones(2, dtype=torch.long)
    good = {name: tensor for name, tensor in tensors.items() if name != 'b'}
    checkpoint = {'meta': {'iter': 1, 'epoch': 1}, 'state_dict': good, 'optimizer': {'state': {0: good}}}
    runner = SimpleNamespace(work_dir=str(tmp_path))
    FiniteStateHook().before_save_checkpoint(runner, checkpoint)
    checkpoint[part] = {'state': {7: tensors}} if part == 'optimizer' else tensors
    with pytest.raises(NonFiniteLossError, match=r'for example (state\.7\.)?b\.'):
        FiniteStateHook().before_save_checkpoint(runner, checkpoint)
