import torch
from torch.autograd.function import once_differentiable


def with_gradient(inputs: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient was computed together with it, as a function of its input.

    Args:
        inputs: What the scalar was computed from.
        value: The 0-d scalar.
        gradient: Its gradient with respect to ``inputs``, of their shape.

    Returns:
        ``value``; it can be differentiated once.
    """
    return _KnownGradient.apply(inputs, value, gradient)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, _inputs: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None
