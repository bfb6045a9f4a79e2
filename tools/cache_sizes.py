"""What tools/cache_teacher.py would store of a teacher by default, and how many bytes of each image and view."""

from collections.abc import Mapping

import torch
from torch import nn

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.cache_maker import CacheOptions
from serkd_mm.distillers.cache_plan import TeacherOutput, plan_outputs
from serkd_mm.teacher_cache.token_basis import describe_basis
from serkd_mm.tokenizers import Feature


def planned_outputs(model: nn.Module, teachers: Mapping[str, Mapping[str, Feature]]) -> list[tuple[list[str], str, int]]:
    """Losses, format and size of each output that a cache would hold; none for a loss that needs the teacher."""
    if len(teachers) > 1:
        return [([], 'nothing: a cache holds the outputs of one teacher', 0)]
    try:
        computed = computed_outputs(model, teachers)
    except ConfigError as error:
        return [([], str(error), 0)]
    rows = []
    for output, tensor in computed:
        if output.needs_basis(tensor):
            tokens, channels = tensor.shape[1:]
            rank = min(CacheOptions.rank, channels)
            rows.append((output.losses, describe_basis(tokens, channels, rank), tokens * rank))
        else:
            form = output.format(tensor, CacheOptions.dtype, CacheOptions.top_k)
            rows.append((output.losses, str(form), form.num_bytes))
    return rows


def computed_outputs(
    model: nn.Module, teachers: Mapping[str, Mapping[str, Feature]]
) -> list[tuple[TeacherOutput, torch.Tensor]]:
    """What a cache of the only teacher would hold, and its values for some images.

    Raises:
        ConfigError: A loss cannot be computed from a cache.
    """
    (teacher,) = teachers.values()
    paths = model.teacher.taps.paths
    features = {paths[tap]: feature for tap, feature in teacher.items()}
    return [(output, output.compute(features)[0]) for output in plan_outputs([(model.distill, paths)], full_tokens=False)]
