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
    # A copied element that leads to the inputs in the graph; they themselves need not be kept in memory.
    anchor = inputs[(slice(1),) * inputs.ndim] * 1 if inputs.requires_grad and torch.is_grad_enabled() else None
    return _PrecomputedGradient.apply(inputs, value, gradient, anchor)


class _PrecomputedGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, _inputs: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor, anchor: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(gradient, anchor)
        return value.clone()

    @staticmethod
    def backward(ctx, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        gradient, anchor = ctx.saved_tensors
        result = grad_output * gradient
        # Gradients are enabled here only with create_graph=True. torch's once_differentiable would let a constant pass.
        if torch.is_grad_enabled():
            result = _NotDifferentiable.apply(result, anchor)
        return result, None, None, None


class _NotDifferentiable(torch.autograd.Function):
    """Raise if a gradient is differentiated, which would silently lack the second derivatives."""

    @staticmethod
    def forward(_ctx, gradient: torch.Tensor, _anchor: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(_ctx, _grad_output: torch.Tensor) -> None:
        raise RuntimeError(
            'a relation loss is differentiable once, so its gradient cannot be differentiated; use serkd_mm.ops.reference'
        )
