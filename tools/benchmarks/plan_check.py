"""Compare the formulas of tools/plan_training.py with measurements of others on a GPU, and with ours on a CPU.

    python tools/benchmarks/plan_check.py

Images per second on an RTX 3090 are those that timm publishes (huggingface/pytorch-image-models, folder results,
mixed precision in float16): inference with torch 2.4, training with torch 1.12, transformers from the files 'nchw', ResNets
from the files 'nhwc'. The same networks are counted here, with mmpretrain's models; nothing is measured. The CPU is that of
training_step_cpu.json.
"""

import argparse
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from describe import build_model
from kernel_counts import Kernel, KernelCounter, ReadZeros, count_step, make_fake
from mmengine.logging import MMLogger
from mmpretrain import get_model
from mmpretrain.structures import DataSample
from torch._subclasses.fake_tensor import FakeTensorMode
from training_time import Gpu, Rates, cached_step, live_step

FOLDER = Path(__file__).parent
# NVIDIA's white paper of the GA102: tensor cores with sums in float32.
RTX_3090 = Gpu(bfloat16=71, float32=35.6, float64=0.56, bandwidth=936, memory=24)
# Of mmpretrain's zoo, and timm's images per second: inference and training, or None if it has not been published.
PUBLISHED = {
    'deit-tiny_4xb256_in1k': ('deit_tiny_patch16_224', 10236.41, 2290.53),
    'deit-small_4xb256_in1k': ('deit_small_patch16_224', 4586.09, 1053.64),
    'vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k': ('vit_base_patch16_gap_224', 1426.06, None),
    'resnet18_8xb32_in1k': ('resnet18', 11188.75, 3481.78),
    'resnet101_8xb32_in1k': ('resnet101', 2287.55, 747.89),
}
BATCH = 256
CPU_BALANCE = (5, 10)  # FLOPs that a CPU computes while it moves a byte: an assumption.


def main() -> None:
    """Print both comparisons."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    print('| network | inference, estimated | published | ratio | training, estimated | published | ratio |')
    print('| --- ' * 7 + '|')
    for name in PUBLISHED:
        print(compare_with_gpu(name), flush=True)
    print(f'\n{compare_with_cpu()}')


def compare_with_gpu(name: str) -> str:
    """Return the row of a network: images per second, estimated and published."""
    shown, *published = PUBLISHED[name]
    cells, rates = [shown], Rates(RTX_3090)
    for kernels, known in zip(count_network(name), published, strict=True):
        estimated = BATCH / rates.gpu_seconds(kernels)
        cells += [f'{estimated:,.0f}', f'{known:,.0f}', f'{estimated / known:.2f}'] if known else ['-'] * 3
    return f'| {" | ".join(cells)} |'


def count_network(name: str) -> tuple[list[Kernel], list[Kernel]]:
    """Return the kernels of inference and of a training step, without the update, on a batch."""
    model = get_model(name, pretrained=False).to(memory_format=torch.channels_last)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, ReadZeros():
        make_fake([model], mode)
        images = torch.randn(BATCH, 3, 224, 224)
        samples = [DataSample().set_gt_label(0) for _ in images]
        with torch.autocast('cpu', torch.bfloat16):
            with KernelCounter() as inference, torch.no_grad():
                model.eval()(images)
            with KernelCounter() as training:
                loss = model.train().loss(images, samples)['loss']
        with training:
            loss.backward()
    return inference.kernels, training.kernels


def compare_with_cpu() -> str:
    """Compare the step of deit-ti_mae-b with training_step_cpu.json: its teacher's share, a cache's time, memory."""
    published = json.loads((FOLDER / 'results' / 'training_step_cpu.json').read_text())['results']
    config, model = build_model(str(FOLDER.parents[1] / 'configs' / 'serkd' / 'deit-ti_mae-b.py'), None, weights=False)
    counts = count_step(model, config, published['batch'], mixed=False)
    flops = {part: sum(kernel.flops for kernel in getattr(counts, part)) for part in ('teacher', 'student', 'decoding')}
    kinds, live = published['kinds'], flops['teacher'] + flops['student']
    rows = [('measured', published['shares']['teacher'], kinds['cached']['over_kd'] / kinds['serkd']['over_kd'])]
    rows.append(('FLOPs alone', flops['teacher'] / live, (flops['student'] + flops['decoding']) / live))
    for balance in CPU_BALANCE:
        rates = Rates(Gpu(balance / 1e3, balance / 1e3, balance / 1e3, 1, 1), 1.0, 1.0, 0.0)
        # The angle kernel is one of a GPU.
        whole, cached = (step(replace(counts, angles=[]), rates).gpu for step in (live_step, cached_step))
        rows.append((f'kernel by kernel, {balance} FLOPs a byte', rates.gpu_seconds(counts.teacher) / whole, cached / whole))
    memory = (counts.memory['saved'] + counts.memory['gradients']) / 2**20
    lines = ['| deit-ti_mae-b on a CPU | share of the teacher | step from a cache / live |', '| --- | --- | --- |']
    lines += [f'| {name} | {share:.3f} | {ratio:.3f} |' for name, share, ratio in rows]
    measured = [kinds[kind]['bytes'] / 2**20 for kind in ('cached', 'serkd')]
    return '\n'.join(lines) + (
        f'\n\nSaved tensors and gradients of {published["batch"]} images in float32: {memory:.0f} MiB. Measured growth in a '
        f'step: {measured[0]:.0f} MiB from a cache, {measured[1]:.0f} MiB live.'
    )


if __name__ == '__main__':
    main()
