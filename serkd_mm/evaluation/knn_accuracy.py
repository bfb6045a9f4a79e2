from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS

from ..config_errors import ConfigError
from .model_outputs import find_output

_QUERIES = 1024


@METRICS.register_module()
class KNNAccuracy(BaseMetric):
    """Accuracy of a weighted k-nearest-neighbor classifier on the student's features, which needs no trained class head.

    The evaluation of DINO (Caron et al., arXiv:2104.14294, section 4.1): the k neighbors of an image, by the cosine
    similarity of pooled features, vote for their label with the weight :math:`\\exp(\\text{similarity} / \\tau)`. DINO looks
    for neighbors among the training images; here they are the other images of the same evaluation (leave-one-out), on all
    ranks, so that no second data set is needed. Accuracies are comparable for the same images only.

    The pooled features are those that the class head of the student would read, before its hidden layers, see
    :func:`~serkd_mm.distillers.model_parts.pooled_features`. ``EvaluationOutputsHook`` of the runtime has the model compute
    them; the teacher is not needed.

    Args:
        k: Number of neighbors. Default: 20, or all others if there are fewer.
        tau: Temperature of the weights. Default: 0.07.
        collect_device: As for mmengine's metrics. Default: 'cpu'.
        prefix: As for mmengine's metrics. Default: None, which is 'knn': the result is ``knn/top1``, in percent.

    Raises:
        ConfigError: ``k`` or ``tau`` is not positive, or, while evaluating, an image has no label or there are no features.
    """

    default_prefix = 'knn'
    model_output = 'pooled_features'

    def __init__(self, k: int = 20, tau: float = 0.07, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ConfigError(f'KNNAccuracy.k must be a whole number, 1 or more, but is {k!r}')
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not tau > 0:
            raise ConfigError(f'KNNAccuracy.tau must be a positive number, but is {tau!r}')
        self.k, self.tau = k, tau

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep features and label of each image.

        Args:
            data_batch: Ignored.
            data_samples: The predictions, as dicts.

        Raises:
            ConfigError: An image does not have exactly one label, or there are no features.
        """
        for sample in data_samples:
            label = sample.get('gt_label')
            if label is None or label.numel() != 1:
                raise ConfigError(
                    f'KNNAccuracy: {sample.get("img_path", "an image")} has {0 if label is None else label.numel()} labels, '
                    'and needs one. Images without labels are evaluated by DistillationLosses, while training'
                )
            features = find_output(sample, self)
            self.results.append((F.normalize(features.float(), dim=0).cpu(), int(label)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Let the neighbors vote.

        Args:
            results: Normalized features ``(C,)`` and label of each image.
        """
        device = get_device()  # The main process computes; similarities of all pairs take long on a CPU.
        features = torch.stack([feature for feature, _ in results]).to(device)
        labels = torch.tensor([label for _, label in results], device=device)
        classes, labels = labels.unique(return_inverse=True)
        k = min(self.k, len(results) - 1)
        correct = 0
        for start in range(0, len(results) if k else 0, _QUERIES):
            similarity = features[start : start + _QUERIES] @ features.T
            own = torch.arange(len(similarity), device=device)
            similarity[own, start + own] = -torch.inf
            nearest, neighbors = similarity.topk(k, dim=1)
            weights = ((nearest - nearest[:, :1]) / self.tau).exp()  # Relative to the nearest: exp does not overflow.
            votes = nearest.new_zeros(len(similarity), len(classes)).scatter_add_(1, labels[neighbors], weights)
            correct += int((votes.argmax(dim=1) == labels[start : start + _QUERIES]).sum())
        return {'top1': 100.0 * correct / max(len(results), 1)}
