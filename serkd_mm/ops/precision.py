"""The one rule about number formats that every operation shares."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Promote float16 and bfloat16 to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def autocast_off(tensor: torch.Tensor) -> torch.autocast:
    """A context in which matrix products keep the format of their inputs, on the device of ``tensor``."""
    return torch.autocast(tensor.device.type, enabled=False)
