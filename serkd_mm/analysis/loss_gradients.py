"""How large the gradients of the losses of a step are, and how far they agree."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

TOTAL = 'total'


def gradient_products(losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
    """Compute the inner products of the gradients of all losses with respect to the parameters.

    Each loss has a backward pass of its own through the same graph. The parameters' ``grad`` is used for it, and is None
    afterwards.

    Args:
        losses: Weighted losses of one step by name, 0-d tensors; one without a graph has the gradient 0.
        parameters: The parameters.

    Returns:
        Float64 ``(L, L)`` for L losses; the diagonal holds the squared norms.
    """
    parameters = list(parameters)
    gradients: list[list[Tensor | None]] = [[] for _ in parameters]
    for loss in losses.values():
        for parameter in parameters:
            parameter.grad = None
        if loss.requires_grad:
            # torch.autograd.grad would not run through gradient checkpointing.
            loss.backward(retain_graph=True)
        for of_parameter, parameter in zip(gradients, parameters, strict=True):
            of_parameter.append(parameter.grad)
            parameter.grad = None
    products = torch.zeros(len(losses), len(losses), dtype=torch.float64)
    for of_parameter, parameter in zip(gradients, parameters, strict=True):
        parts = [torch.zeros_like(parameter) if part is None else part for part in of_parameter]
        rows = torch.stack([part.detach().flatten().double() for part in parts])
        products += (rows @ rows.T).cpu()
    return products


def compare_gradients(names: Sequence[str], products: Tensor, task: str | None) -> dict[str, dict[str, float]]:
    """Describe the gradient of each loss, and of their sum, by their inner products.

    Args:
        names: Names of the losses.
        products: The products, see :func:`gradient_products`.
        task: Name of the task loss; None, or a name that is not there, if the student is trained without labels.

    Returns:
        By loss, and for the sum by ``'total'``: 'norm', the norm of the gradient; 'share', the norm divided by the sum of
        the norms of all losses; 'to_task' and 'to_total', the cosine with the gradient of the task loss and of the sum. NaN
        where it is not defined: the share of the sum, and the cosine with a gradient that is 0 or missing.
    """
    # The sum of the losses is one more loss, whose gradient is the sum of theirs.
    extended = torch.cat([products, products.sum(0, keepdim=True)])
    extended = torch.cat([extended, extended.sum(1, keepdim=True)], dim=1)
    norms = extended.diagonal().clamp(min=0).sqrt()
    cosines = extended / (norms[:, None] * norms)  # 0 / 0 is NaN.
    sum_of_norms = norms[:-1].sum()
    to_task = cosines[:, names.index(task)] if task in names else torch.full_like(norms, math.nan)
    rows = {
        name: {
            'norm': norms[place].item(),
            'share': (norms[place] / sum_of_norms).item(),
            'to_task': to_task[place].item(),
            'to_total': cosines[place, -1].item(),
        }
        for place, name in enumerate([*names, TOTAL])
    }
    rows[TOTAL]['share'] = math.nan
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation of the values that are not NaN; NaN without any, or without two."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan
