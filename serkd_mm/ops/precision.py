"""Rules about dtypes that the operations share."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Promote float16 and bfloat16 to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def most_exact(tensor: torch.Tensor) -> torch.dtype:
    """Choose float64, or float32 on Apple's GPUs, which do not support float64."""
    return torch.float32 if tensor.device.type == 'mps' else torch.float64


def autocast_off(tensor: torch.Tensor) -> torch.autocast:
    """Create a context in which matrix products keep the dtype of their inputs, on the device of ``tensor``."""
    return torch.autocast(tensor.device.type, enabled=False)


def float32_products_are_exact() -> bool:
    """Whether torch multiplies float32 matrices in float32, and not in TF32 or bfloat16 to save time.

    False, to be safe, if the precision was set by the switches of each backend that torch 2.9 introduced.
    """
    try:
        return torch.get_float32_matmul_precision() == 'highest'
    except RuntimeError:
        return False


def reads_are_free(tensor: torch.Tensor) -> bool:
    """Whether Python can look at values without waiting for a device."""
    return tensor.device.type == 'cpu'
