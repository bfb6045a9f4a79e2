"""Test every image classifier of mmpretrain's zoo as the teacher of a DeiT-Ti and of a ResNet-18 by one SeRKD step.

    python tools/experiments/zoo.py [--teachers NAME ...] [--work-dir DIR] [--out FILE]

Teachers have random weights. The config leaves the taps out, so the default taps are tested. Images have 112 x 112 pixels;
teachers that do not accept this size get the size that they were evaluated with. Each teacher is tested in a separate
process. A second start skips the teachers that have been tested. Models that differ only in their weights are tested once.
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

from serkd_mm.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAIR = ROOT / 'configs' / 'serkd' / '_base_' / 'any_pair.py'
IMAGE_SIZE = 112
STUDENTS = {'DeiT-Ti': 'deit-tiny-distilled_3rdparty_in1k', 'ResNet-18': 'resnet18_8xb32_in1k'}
PAGE = """# mmpretrain's zoo as teachers

Which image classifiers of the zoo can teach a DeiT-Ti and a ResNet-18 if the config leaves the taps out? Each
was built with random weights and took one SeRKD step with both students. This shows that the parts fit, not how
well a student learns. Teachers see images of {size} pixels or, if they do not accept that size, of the size
that they were evaluated with (`teacher.input_size`).

{share}, {rows} of which differ in more than their weights;
`python tools/experiments/zoo.py`, {about}.

| teacher | models | parameters (M) | patches | logits | size | works |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Test the teachers that have not been tested, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teachers', nargs='+', metavar='NAME', help='names in the zoo; by default all')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'zoo', help='folder of the results by teacher')
    parser.add_argument('--out', type=Path, default=ROOT / 'configs' / 'serkd' / 'zoo.md', help='file of the table')
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    models = distinct_models(args.teachers or list_models(task='Image Classification'))
    for number, (name, others) in enumerate(models.items(), 1):
        file = args.work_dir / f'{name}.json'
        if not file.exists():
            file.write_text(json.dumps({'teacher': name, 'others': others, **in_subprocess(name)}))
        row = json.loads(file.read_text())
        print(f'{number}/{len(models)} {name}: {row.get("patches", "-")}, {outcome(row)}', flush=True)
    rows = [json.loads((args.work_dir / f'{name}.json').read_text()) for name in models]
    args.out.write_text(as_markdown(rows))
    print(f'Wrote {args.out}')


def distinct_models(names: list[str]) -> dict[str, list[str]]:
    """Group the names whose models differ only in their weights; return the first name of each group and the others."""
    groups: dict[str, list[str]] = {}
    for name in names:
        try:
            model = json.dumps(ModelHub.get(name).config.model, default=str, sort_keys=True)
        except Exception:  # mmpretrain cannot read this config; attempt() reports it.
            model = name
        groups.setdefault(model, []).append(name)
    return {first: others for first, *others in groups.values()}


def in_subprocess(name: str) -> dict:
    """Run :func:`attempt` in a separate process, so that a model that runs out of memory does not stop the script."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(attempt(name)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {'error': f'the process exited with {process.exitcode}'}


def attempt(name: str) -> dict:
    """Take a step with each student; return the default taps, the image size, and the errors by student."""
    MMLogger.get_current_instance().setLevel('ERROR')
    try:
        zoo = ModelHub.get(name).config
    except Exception as error:
        return {'error': f'mmpretrain cannot read its config: {type(error).__name__}: {first_line(error)}'}
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
        teacher: Name in the zoo.
        student: Name in ``STUDENTS``.
        teacher_size: Size of the teacher's images; None is the student's.

    Returns:
        The teacher's taps, image size and number of parameters.
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
    """Return the size of the images that a model of the zoo was evaluated with."""
    pipeline = (zoo.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', [])
    sizes = [size for transform in pipeline for size in (transform.get('crop_size'), transform.get('scale')) if size]
    sizes = [max(size) if isinstance(size, (tuple, list)) else size for size in sizes]
    return sizes[-1] if sizes else 224


def first_line(error: Exception) -> str:
    """Return the first sentence of a message, with paths relative to mmpretrain."""
    message = str(error).strip().split('\n')[0].replace(str(Path(mmpretrain.__file__).parent), 'mmpretrain')
    return message.split('. ')[0]


def outcome(row: dict) -> str:
    """Return 'works' or the errors."""
    if 'error' in row:
        return row['error']
    problems = dict.fromkeys(row[student] for student in STUDENTS if student in row)  # Mostly the same for both.
    return '; '.join(problems) or 'works'


def as_markdown(rows: list[dict]) -> str:
    """Return the page: the share of models that work, and a row for each model."""
    models = [1 + len(row['others']) for row in rows]
    working = sum(number for number, row in zip(models, rows, strict=True) if outcome(row) == 'works')
    about = f'{platform.machine()} CPU, torch {torch.__version__.split("+")[0]}, {time.strftime("%Y-%m-%d")}'
    share = f'**{working} of {sum(models)} models work** ({100 * working / sum(models):.1f} %)'
    return PAGE.format(size=IMAGE_SIZE, share=share, rows=len(rows), about=about) + '\n'.join([*lines_of(rows), ''])


def lines_of(rows: list[dict]) -> Iterator[str]:
    """Yield a row for each model."""
    for row in rows:
        result = outcome(row)
        parameters = f'{row["parameters"] / 1e6:.1f}' if 'parameters' in row else '-'
        cells = [row['teacher'], 1 + len(row['others']), parameters]
        cells += [f'`{row[tap]}`' if tap in row else '-' for tap in ('patches', 'logits')]
        cells += [row.get('size', '-'), 'yes' if result == 'works' else result.replace('|', '/')]
        yield '| ' + ' | '.join(map(str, cells)) + ' |'


if __name__ == '__main__':
    main()
