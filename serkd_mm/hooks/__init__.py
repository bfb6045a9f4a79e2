"""Hooks around training: what is saved, how, and when a run has to stop."""

from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .plain_checkpoint_hook import PlainCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = ['EpochSeedHook', 'FiniteLossHook', 'NonFiniteLossError', 'PlainCheckpointHook', 'SafeCheckpointHook']
