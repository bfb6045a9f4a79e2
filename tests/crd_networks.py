"""The networks of the CRD benchmark as functions of weights in its names, which are made where a network first uses them."""

import torch
import torch.nn.functional as F


class Weights(dict):
    """Weights by name, and the layers that read them."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def uniform(self, *shape, low=-1.0, high=1.0):
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def conv(self, name, x, width, size=3, stride=1, groups=1, bias=False):
        shape = width, x.shape[1] // groups, size, size
        if f'{name}.weight' not in self:
            self[f'{name}.weight'] = self.uniform(*shape) * (3 / (shape[1] * size * size)) ** 0.5
            self.update({f'{name}.bias': self.uniform(width)} if bias else {})
        return F.conv2d(x, self[f'{name}.weight'], self.get(f'{name}.bias'), stride, size // 2, groups=groups)

    def norm(self, name, x):
        if f'{name}.weight' not in self:
            for part in ('weight', 'running_var'):
                self[f'{name}.{part}'] = self.uniform(x.shape[1], low=0.5, high=1.5)
            for part in ('bias', 'running_mean'):
                self[f'{name}.{part}'] = self.uniform(x.shape[1])
            self[f'{name}.num_batches_tracked'] = torch.tensor(7)
        return F.batch_norm(x, *(self[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')))

    def linear(self, name, x, width=100):
        if f'{name}.weight' not in self:
            self[f'{name}.weight'], self[f'{name}.bias'] = self.uniform(width, x.shape[1]), self.uniform(width)
        return F.linear(x.mean((2, 3)), self[f'{name}.weight'], self[f'{name}.bias'])


def resnet(net, x, depth, widths=(32, 64, 128, 256)):
    x = F.relu(net.norm('bn1', net.conv('conv1', x, widths[0])))
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            out = F.relu(net.norm(f'{name}.bn1', net.conv(f'{name}.conv1', x, widths[stage], stride=stride)))
            out = net.norm(f'{name}.bn2', net.conv(f'{name}.conv2', out, widths[stage]))
            if x.shape != out.shape:
                x = net.norm(f'{name}.downsample.1', net.conv(f'{name}.downsample.0', x, widths[stage], 1, stride))
            x = F.relu(x + out)
    return net.linear('fc', x)


def wide_resnet(net, x, depth, widen_factor=2):
    x = net.conv('conv1', x, 16)
    for stage in (1, 2, 3):
        width = 8 * 2**stage * widen_factor
        for block in range((depth - 4) // 6):
            name, stride = f'block{stage}.layer.{block}', 2 if stage > 1 and block == 0 else 1
            active = F.relu(net.norm(f'{name}.bn1', x))
            out = F.relu(net.norm(f'{name}.bn2', net.conv(f'{name}.conv1', active, width, stride=stride)))
            out = net.conv(f'{name}.conv2', out, width)
            x = out + (x if x.shape == out.shape else net.conv(f'{name}.convShortcut', active, width, 1, stride))
    return net.linear('fc', F.relu(net.norm('bn1', x)))


def vgg(net, x, num_convolutions):
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        for layer in range(num_convolutions):
            x = net.conv(f'block{stage}.{3 * layer}', x, width, bias=True)
            x = F.relu(net.norm(f'block{stage}.{3 * layer + 1}', x))
        x = F.max_pool2d(x, 2) if stage < 3 else x
    return net.linear('classifier', x)


def shufflenet_v2(net, x):
    def unit(name, numbers, x, width, stride):
        """A 1x1, a depthwise 3x3 and a 1x1 convolution; without the first, two."""
        *first, depthwise, last = numbers
        for number in first:
            x = F.relu(net.norm(f'{name}.bn{number}', net.conv(f'{name}.conv{number}', x, width, 1)))
        channels = x.shape[1]
        x = net.conv(f'{name}.conv{depthwise}', x, channels, 3, stride, groups=channels)
        x = net.conv(f'{name}.conv{last}', net.norm(f'{name}.bn{depthwise}', x), width, 1)
        return F.relu(net.norm(f'{name}.bn{last}', x))

    x = F.relu(net.norm('bn1', net.conv('conv1', x, 24, 1)))
    for stage, (width, length) in enumerate([(116, 4), (232, 8), (464, 4)], start=1):
        for block in range(length):
            name = f'layer{stage}.{block}'
            if block == 0:
                halves = unit(name, (1, 2), x, width // 2, 2), unit(name, (3, 4, 5), x, width // 2, 2)
            else:
                kept, x = x.chunk(2, dim=1)
                halves = kept, unit(name, (1, 2, 3), x, width // 2, 1)
            x = torch.stack(halves, dim=2).flatten(1, 2)  # Channels of both halves in turn.
    return net.linear('linear', F.relu(net.norm('bn2', net.conv('conv2', x, 1024, 1))))
