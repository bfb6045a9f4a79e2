"""Every image classifier of mmpretrain's zoo as the teacher of a DeiT-Ti and of a ResNet-18: which pairs take a SeRKD step?

    python tools/experiments/zoo.py [--teachers NAME ...] [--work-dir DIR] [--out FILE]

Teachers have random weights; taps are left out of the config, so that the default ones are tried. Images have 112 pixels,
and for teachers that refuse those, the size that they were evaluated with. Each teacher has a process of its own; started
again, the script skips what it has tried. Models that differ in their weights alone are tried once.
"""

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.apis import ModelHub, list_models
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from serkd_mm.distillers.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAIR = ROOT / 'configs' / 'serkd' / '_base_' / 'any_pair.py'
IMAGE_SIZE = 112
STUDENTS = {'DeiT-Ti': 'deit-tiny-distilled_3rdparty_in1k', 'ResNet-18': 'resnet18_8xb32_in1k'}


def main() -> None:
    """Try what was not tried yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teachers', nargs='+', metavar='NAME', help='names of the zoo; all by default')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'zoo')
    parser.add_argument('--out', type=Path, default=ROOT / 'configs' / 'serkd' / 'zoo.md')
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    models = distinct_models(args.teachers or list_models(task='Image Classification'))
    for number, (name, others) in enumerate(models.items(), 1):
        file = args.work_dir / f'{name}.json'
        if not file.exists():
            file.write_text(json.dumps({'teacher': name, 'others': others, **in_a_process(name)}))
        row = json.loads(file.read_text())
        print(f'{number}/{len(models)} {name}: {row.get("patches", "-")}, {outcome(row)}', flush=True)
    rows = [json.loads((args.work_dir / f'{name}.json').read_text()) for name in models]
    args.out.write_text(as_markdown(rows))
    print(f'Wrote {args.out}')


def distinct_models(names: list[str]) -> dict[str, list[str]]:
    """The first name of each model, with the other names of the same one: those that differ in their weights alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        try:
            model = json.dumps(ModelHub.get(name).config.model, default=str, sort_keys=True)
        except Exception:  # A config of the zoo that mmpretrain itself can not read; the attempt will say so.
            model = name
        groups.setdefault(model, []).append(name)
    return {first: others for first, *others in groups.values()}


def in_a_process(name: str) -> dict:
    """What :func:`attempt` finds, in a process of its own: a model that takes all memory ends no other."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(attempt(name)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {'error': f'the process ended with {process.exitcode}'}


def attempt(name: str) -> dict:
    """A step with each student: the taps that were found, the size of the images, and what went wrong."""
    MMLogger.get_current_instance().setLevel('ERROR')
    try:
        zoo = ModelHub.get(name).config
    except Exception as error:
        return {'error': f'mmpretrain can not read its config: {type(error).__name__}: {first_line(error)}'}
    found: dict = {}
    for student in STUDENTS:
        for size in (None, evaluated_size(zoo)):
            try:
                found |= step(name, student, size)
                found.pop(student, None)
                break
            except ConfigError as error:
                found[student] = first_line(error)
            except Exception as error:
                found[student] = f'{type(error).__name__}: {first_line(error)}'
    return found


def step(teacher: str, student: str, teacher_size: int | None) -> dict:
    """Build a pair and take one step.

    Args:
        teacher: Name of the zoo.
        student: Name in the table.
        teacher_size: Size of the teacher's images, where it is not the student's.
    """
    torch.manual_seed(0)
    config = Config.fromfile(PAIR)
    config.model.student.model = ModelHub.get(STUDENTS[student]).config.model
    config.model.student.model.backbone.pop('init_cfg', None)
    config.model.input_size = (3, IMAGE_SIZE, IMAGE_SIZE)
    if student == 'DeiT-Ti':
        config.model.student.model.backbone.img_size = IMAGE_SIZE
    num_classes = getattr(ModelHub.get(teacher).config.model.get('head'), 'num_classes', 1000)
    config.model.student.model.head.num_classes = num_classes
    config.model.teacher.update(model=teacher, checkpoint=None, allow_random_teacher=True, input_size=teacher_size)
    config.model.data_preprocessor = {**config.data_preprocessor, 'num_classes': num_classes}
    model = MODELS.build(config.model)
    raw = {
        'inputs': torch.randint(0, 256, (2, 3, IMAGE_SIZE, IMAGE_SIZE)),
        'data_samples': [DataSample().set_gt_label(label) for label in (0, 1)],
    }
    total, _ = model.parse_losses(model(**model.data_preprocessor(raw, training=True), mode='loss'))
    total.backward()
    if not total.isfinite():
        raise FloatingPointError('the loss is not finite')
    parameters = sum(weight.numel() for weight in model.teacher.model.parameters())
    return {**model.teacher.taps.paths, 'size': teacher_size or IMAGE_SIZE, 'parameters': parameters}


def evaluated_size(zoo: Config) -> int:
    """The size of the images that the zoo's accuracy was measured with."""
    pipeline = (zoo.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', [])
    sizes = [size for transform in pipeline for size in (transform.get('crop_size'), transform.get('scale')) if size]
    sizes = [max(size) if isinstance(size, (tuple, list)) else size for size in sizes]
    return sizes[-1] if sizes else 224


def first_line(error: Exception) -> str:
    """The first sentence of a message, without the folders of this machine."""
    message = str(error).strip().split('\n')[0].replace(str(Path(mmpretrain.__file__).parent), 'mmpretrain')
    return message.split('. ')[0]


def outcome(row: dict) -> str:
    """What happened, in a few words."""
    if 'error' in row:
        return row['error']
    problems = dict.fromkeys(row[student] for student in STUDENTS if student in row)  # Both mostly have the same.
    return '; '.join(problems) or 'works'


def as_markdown(rows: list[dict]) -> str:
    """The page: how many work, and each with its taps or what stands in its way."""
    models = [1 + len(row['others']) for row in rows]
    working = sum(number for number, row in zip(models, rows, strict=True) if outcome(row) == 'works')
    about = f'{platform.machine()} CPU, torch {torch.__version__.split("+")[0]}, {time.strftime("%Y-%m-%d")}'
    share = f'{working} of {sum(models)} models work** ({100 * working / sum(models):.1f} %)'
    return '\n'.join(
        [
            "# mmpretrain's zoo as teachers",
            '',
            'Which image classifiers of the zoo can teach a DeiT-Ti and a ResNet-18, with taps left out of the config? Each',
            'was built with random weights and took one SeRKD step with both students: it says that the parts fit, not how',
            f'well a student learns. Teachers see images of {IMAGE_SIZE} pixels, or, where they refuse those, of the size',
            'that they were evaluated with (`teacher.input_size`).',
            '',
            f'**{share}, {len(rows)} of which differ in more than their weights;',
            f'`python tools/experiments/zoo.py`, {about}.',
            '',
            '| teacher | models | parameters (M) | patches | logits | size | works |',
            '| --- | --- | --- | --- | --- | --- | --- |',
            *lines_of(rows),
            '',
        ]
    )


def lines_of(rows: list[dict]) -> Iterator[str]:
    """A line for each model."""
    for row in rows:
        result = outcome(row)
        parameters = f'{row["parameters"] / 1e6:.1f}' if 'parameters' in row else '-'
        cells = [row['teacher'], 1 + len(row['others']), parameters]
        cells += [f'`{row[tap]}`' if tap in row else '-' for tap in ('patches', 'logits')]
        cells += [row.get('size', '-'), 'yes' if result == 'works' else result.replace('|', '/')]
        yield '| ' + ' | '.join(map(str, cells)) + ' |'


if __name__ == '__main__':
    main()
