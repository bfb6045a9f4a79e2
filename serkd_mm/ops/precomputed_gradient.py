import torch


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
    def backward(ctx, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        result = grad_output * gradient
        # Gradients are enabled here only with create_graph=True. torch's once_differentiable would let a constant pass.
        return _NotDifferentiable.apply(result.requires_grad_()) if torch.is_grad_enabled() else result, None, None


class _NotDifferentiable(torch.autograd.Function):
    """Raise if a gradient is differentiated, which would silently lack the second derivatives."""

    @staticmethod
    def forward(_ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(_ctx, _grad_output: torch.Tensor) -> None:
        raise RuntimeError('a relation loss is differentiable once, so its gradient cannot be differentiated')
