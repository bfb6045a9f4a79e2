import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_world_size
from mmpretrain.registry import MODELS

from ..ops.precision import at_least_float32, autocast_off
from .base_loss import BaseDistillationLoss, check_tau
from .lazy_linear import lazy_linear


@MODELS.register_module()
class RRDLoss(BaseDistillationLoss):
    """Relational Representation Distillation (arXiv 2407.12073): relations to a memory of the teacher's past embeddings.

    Each image's pooled features are mapped linearly to ``embed_dim`` and normalised, giving z_s and z_t. A first-in,
    first-out queue holds the teacher's last ``queue_size`` embeddings, those of this batch among them. With
    p = softmax(z . queue / tau) on either side, the loss is the cross-entropy of p_s against p_t, averaged over the batch.

    Choices: while the queue is not yet full, only what has entered it is compared with, where other memories start with
    random vectors. The teacher's map stays as it was initialised and gets no gradient. On several ranks each enqueues the
    embeddings of all, in the order of the ranks, so that all queues are the same; batches may differ in size, also from
    rank to rank (for this the sizes are exchanged, which waits for the device once a step, on several ranks only). In
    evaluation mode the queue stays as it is.

    Maps and queue are saved under ``distill.``: a resumed run continues exactly.

    Args:
        queue_size: Number K of the teacher's embeddings that are remembered.
        embed_dim: Width of the embeddings.
        tau_student: Temperature of the student's relations, the sharper one.
        tau_teacher: Temperature of the teacher's relations.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: A size is not a positive integer, or a temperature not a positive number.
    """

    def __init__(
        self,
        queue_size: int = 16384,
        embed_dim: int = 128,
        tau_student: float = 0.02,
        tau_teacher: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        for name, size in {'queue_size': queue_size, 'embed_dim': embed_dim}.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f'{name} must be a positive integer, but got {size!r}')
        self.embed_dim = embed_dim
        self.tau_student = check_tau('tau_student', tau_student)
        self.tau_teacher = check_tau('tau_teacher', tau_teacher)
        self.register_module('student_map', None)
        self.register_module('teacher_map', None)
        self.register_buffer('queue', torch.zeros(queue_size, embed_dim))
        self.register_buffer('num_enqueued', torch.zeros((), dtype=torch.long))

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Features ``(B, C_s)`` against ``(B, C_t)``; tokens ``(B, L, C)`` and maps ``(B, C, H, W)`` are averaged first.

        Raises:
            ValueError: The batches differ, or a width is not that of the first call.
        """
        student, teacher = _pooled(student), _pooled(teacher)
        if student.shape[0] != teacher.shape[0]:
            raise ValueError(
                f'RRDLoss compares the same images, but got {student.shape[0]} of the student and {teacher.shape[0]} of '
                'the teacher'
            )
        student_map = lazy_linear(self, 'student_map', student, self.embed_dim)
        teacher_map = lazy_linear(self, 'teacher_map', teacher, self.embed_dim).requires_grad_(False)
        with autocast_off(student):
            student, teacher = F.normalize(student_map(student)), F.normalize(teacher_map(teacher))
            memory, unused = self._remember(teacher)
            student_scores = (student @ memory.T / self.tau_student).masked_fill(unused, -torch.inf)
            teacher_scores = (teacher @ memory.T / self.tau_teacher).masked_fill(unused, -torch.inf)
        student_log_prob = student_scores.log_softmax(dim=1).masked_fill(unused, 0.0)
        return -(teacher_scores.softmax(dim=1) * student_log_prob).sum(dim=1).mean()

    @torch.no_grad()
    def _remember(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The queue ``(K, embed_dim)`` after this batch has entered it, and which of its places ``(K,)`` are unused."""
        if self.training:
            embeddings = _gather(embeddings)
        queue, num_enqueued = self.queue.clone(), self.num_enqueued + len(embeddings)
        size = len(queue)
        newest = embeddings[-size:].to(queue)
        places = torch.arange(-len(newest), 0, device=queue.device) + num_enqueued
        queue[places % size] = newest
        if self.training:
            self.queue[places % size] = newest
            self.num_enqueued.copy_(num_enqueued)
        return queue.to(embeddings), torch.arange(size, device=queue.device) >= num_enqueued

    def extra_repr(self) -> str:
        return (
            f'queue_size={len(self.queue)}, embed_dim={self.embed_dim}, tau_student={self.tau_student}, '
            f'tau_teacher={self.tau_teacher}, {super().extra_repr()}'
        )


def _pooled(feature: torch.Tensor) -> torch.Tensor:
    """One vector per image ``(B, C)``, in float32 or better."""
    if not 2 <= feature.ndim <= 4:
        raise ValueError(
            f'RRDLoss reads features (B, C), tokens (B, L, C) or maps (B, C, H, W), but got shape {tuple(feature.shape)}'
        )
    positions = {2: (), 3: (1,), 4: (2, 3)}[feature.ndim]
    feature = at_least_float32(feature)
    return feature.mean(dim=positions) if positions else feature


def _gather(embeddings: torch.Tensor) -> torch.Tensor:
    """The embeddings of all ranks, rank by rank."""
    if get_world_size() == 1:
        return embeddings
    sizes = torch.cat(all_gather(torch.tensor([len(embeddings)], device=embeddings.device))).tolist()
    padded = F.pad(embeddings, (0, 0, 0, max(sizes) - len(embeddings)))
    return torch.cat([part[:size] for part, size in zip(all_gather(padded), sizes, strict=True)])
