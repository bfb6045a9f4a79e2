"""A backbone whose modules return what taps cannot read, and the config of a pair with it."""

import torch
from builders import NUM_CLASSES, cnn_distiller_config
from mmpretrain.registry import MODELS
from torch import nn


class Returns(nn.Module):
    """Return the features in another form."""

    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, features: torch.Tensor):
        return self.form(features)


@MODELS.register_module()
class OddBackbone(nn.Module):
    """Two convolutions, and modules that return several things, nothing, or run twice or never."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({'one': nn.Conv2d(channels, 8, 3, 2, 1), 'zwei_größe': nn.Conv2d(8, 8, 3, 2, 1)})
        self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 16, 1)))
        self.twice, self.never = nn.Identity(), nn.Conv2d(8, 8, 1)
        self.a_dict, self.a_list = Returns(lambda x: {'x': x}), Returns(lambda x: [x, x])
        self.nothing, self.a_tuple = Returns(lambda x: None), Returns(lambda x: (x, None))
        self.inplace = nn.ReLU(inplace=True)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor]:
        for stage in self.stages.values():
            features = self.twice(stage(features))
        for odd in (self.a_dict, self.a_list, self.nothing, self.a_tuple):
            odd(features)
        return (self.inplace(self.block(features)),)


def odd_config(path: str = 'backbone.block', channels: int = 3, **changes) -> dict:
    """The config of a pair whose student has the odd backbone, tapped at ``path``."""
    model = cnn_distiller_config()
    model.student.model.backbone = dict(type='OddBackbone', channels=channels)
    model.student.model.head.in_channels = 16
    model.student.model.head.num_classes = model.teacher.model.head.num_classes = NUM_CLASSES
    model.student.taps = dict(stage3=path, logits='head')
    for view in model.views.values():
        view.taps = ['stage3']
    for name, value in changes.items():
        owner = model
        *parents, last = name.split('__')
        for parent in parents:
            owner = owner[parent]
        owner[last] = value
    return model
