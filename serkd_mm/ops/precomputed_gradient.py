import torch
from torch.autograd.function import once_differentiable


def attach_gradient(inputs: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Make a scalar differentiable by a gradient that was computed together with it.

    Args:
        inputs: The tensor that the scalar was computed from.
        value: The 0-d scalar.
        gradient: Gradient of ``value`` with respect to ``inputs``, of the same shape.

    Returns:
        ``value``, differentiable once with respect to ``inputs``.
    """
    return _PrecomputedGradient.apply(inputs, value, gradient)


class _PrecomputedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, _inputs: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None
