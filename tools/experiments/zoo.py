"""Test every image classifier of mmpretrain's zoo, or architectures of timm, by one SeRKD step with random weights.

    python tools/experiments/zoo.py [--models timm] [--names NAME ...] [--work-dir DIR] [--out FILE]

Each is the teacher of a DeiT-Ti and of a ResNet-18; some of timm are also students of a ResNet-18. The config leaves taps
and the teacher's input size out, so the defaults are tested; if they fail, the teacher gets the size that its publisher
names. Images have 112 x 112 pixels; a student that does not accept these gets its own size. Each model is tested in a
separate process. A second start skips those that have been tested. Models of the zoo that differ only in their weights are
tested once.
"""

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmpretrain
import timm_models
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.apis import ModelHub, list_models
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from serkd_mm.distillers.model_parts import num_classes_of
from serkd_mm.model_sources import find_model

ROOT = Path(__file__).resolve().parents[2]
PAIR = ROOT / 'configs' / 'serkd' / '_base_' / 'any_pair.py'
IMAGE_SIZE = 112
STUDENTS = {'DeiT-Ti': 'deit-tiny-distilled_3rdparty_in1k', 'ResNet-18': 'resnet18_8xb32_in1k'}
TEACHER = 'resnet18_8xb32_in1k'  # of the students of timm
STEP = """Each was built with random weights and took one SeRKD step. This shows that the parts fit, not how well a student
learns. Images have {size} pixels; a teacher that does not accept them, or whose grid is then smaller than 7x7, sees
another size, see `teacher.input_size`."""
ZOO_PAGE = f"""# mmpretrain's zoo as teachers

Which image classifiers of the zoo can teach a DeiT-Ti and a ResNet-18 if the config leaves the taps out?
{STEP}

{{teacher_share}}, {{teachers}} of which differ in more than their weights;
`python tools/experiments/zoo.py`, {{about}}.

"""
TIMM_PAGE = f"""# Models of timm as teachers and students

Which architectures of timm (`model='timm:NAME'`) can teach a DeiT-Ti and a ResNet-18 if the config leaves the taps out?
{STEP}
A model without a class head is distilled without `loss_kd`.

{{teacher_share}} as teachers, of {{families}} families (timm's modules);
{{student_share}} as students of a ResNet-18;
`python tools/experiments/zoo.py --models timm`, {{about}}.

"""
TEACHER_HEADER = """| teacher | {second} | parameters (M) | patches | logits | size | works |
| --- | --- | --- | --- | --- | --- | --- |
"""
STUDENT_HEADER = """
Students, for which `size` is that of all images:

""" + TEACHER_HEADER.replace('teacher', 'student')


def main() -> None:
    """Test the models that have not been tested, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', choices=['zoo', 'timm'], default='zoo', help="mmpretrain's zoo (default) or timm")
    parser.add_argument('--names', nargs='+', metavar='NAME', help='names of models; by default all')
    parser.add_argument('--work-dir', type=Path, help='folder of the results by model; by default work_dirs/zoo or timm')
    parser.add_argument('--out', type=Path, help='file of the tables; by default configs/serkd/zoo.md or timm.md')
    args = parser.parse_args()
    work_dir = args.work_dir or ROOT / 'work_dirs' / args.models
    out = args.out or ROOT / 'configs' / 'serkd' / f'{args.models}.md'
    work_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, task in enumerate(tasks := list_tasks(args.models, args.names), 1):
        file = work_dir / f'{task["role"]} {task["name"]}.json'.replace(':', ' ')
        if not file.exists():
            file.write_text(json.dumps({**task, **in_subprocess(task)}))
        rows.append(row := json.loads(file.read_text()))
        print(f'{number}/{len(tasks)} {row["role"]} {row["name"]}: {row.get("patches", "-")}, {outcome(row)}', flush=True)
    out.write_text(as_markdown(rows, TIMM_PAGE if args.models == 'timm' else ZOO_PAGE))
    print(f'Wrote {out}')


def list_tasks(models: str, names: list[str] | None) -> list[dict[str, Any]]:
    """List what is tested: the role and name of each model, and the other names of the same model."""
    if models == 'zoo':
        groups = distinct_models(names or list_models(task='Image Classification'))
        return [{'role': 'teacher', 'name': name, 'others': others} for name, others in groups.items()]
    by_role = {'teacher': timm_models.TEACHERS, 'student': timm_models.STUDENTS}
    return [
        {'role': role, 'name': f'timm:{name}', 'others': []}
        for role, listed in by_role.items()
        for name in listed
        if names is None or name in names
    ]


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


def in_subprocess(task: Mapping) -> dict:
    """Run :func:`attempt` in a separate process, so that a model that runs out of memory does not stop the script."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(attempt(task)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {'problems': [f'the process exited with {process.exitcode}']}


def attempt(task: Mapping) -> dict:
    """Take a step with each partner of a model; return its default taps, size and family, and the problems."""
    MMLogger.get_current_instance().setLevel('ERROR')
    name, found, problems = task['name'], {}, []
    try:
        source = find_model(name, f'model.{task["role"]}.model')
        own_size = max(source.image_size or (224,))
        for student in STUDENTS if task['role'] == 'teacher' else [None]:
            if student is None:
                problem = found_or_problem(found, lambda size: student_step(name, size), (IMAGE_SIZE, own_size))
            else:
                step = partial(teacher_step, name, num_classes_in(source), student)
                problem = found_or_problem(found, step, (None, own_size))
            problems += [problem] if problem else []
    except Exception as error:
        problems.append(shorten(error))
    return {**found, 'problems': list(dict.fromkeys(problems))}  # Mostly the same for both students.


def found_or_problem(found: dict, step: Callable[[int | None], dict], sizes: Sequence[int | None]) -> str | None:
    """Take a step at the first size at which it works and add what it returns to ``found``, or return the problem."""
    problem = None
    for size in sizes:
        try:
            found |= step(size)
            return None
        except Exception as error:
            problem = problem or shorten(error)
    return problem


def teacher_step(teacher: str, num_classes: int, student: str, size: int | None) -> dict:
    """Take a step with a teacher.

    Args:
        teacher: Name of the model.
        num_classes: Number of its classes; 0 if it has no class head.
        student: Name in ``STUDENTS``.
        size: The teacher's input size; None for the default.

    Returns:
        The teacher's taps, image size and number of parameters.
    """
    config = Config.fromfile(PAIR)
    config.model.student.model = ModelHub.get(STUDENTS[student]).config.model
    config.model.student.model.backbone.pop('init_cfg', None)
    if student == 'DeiT-Ti':
        config.model.student.model.backbone.img_size = IMAGE_SIZE
    config.model.student.model.head.num_classes = num_classes or 1000
    if num_classes == 0:
        config.model.losses.loss_kd = None
        if student == 'DeiT-Ti':  # Without a loss on its second head, both are trained on the labels.
            config.model.student.model.head.update(type='DeiTDistilledClsHead', distilled_training=False)
    config.model.teacher.update(model=teacher, input_size=size)
    model = take_step(config, num_classes or 1000, IMAGE_SIZE)
    return describe(model.teacher.model, model.teacher.taps.paths, max(model.teacher.input_size or (IMAGE_SIZE,)))


def student_step(student: str, size: int) -> dict:
    """Take a step with a student of timm at a size; return what :func:`teacher_step` does."""
    config = Config.fromfile(PAIR)
    name = student.removeprefix('timm:')
    config.model.student.model = {'type': 'TimmClassifier', 'model_name': name, 'num_classes': 1000}
    config.model.teacher.model = TEACHER
    model = take_step(config, 1000, size)
    return describe(model.student, model.student_taps.paths, size)


def take_step(config: Config, num_classes: int, size: int) -> torch.nn.Module:
    """Build the model of a config with a random teacher and take a step on two images; return the model."""
    torch.manual_seed(0)
    config.model.input_size = (3, size, size)
    config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    config.model.data_preprocessor = {**config.data_preprocessor, 'num_classes': num_classes}
    model = MODELS.build(config.model)
    raw = {
        'inputs': torch.randint(0, 256, (2, 3, size, size)),
        'data_samples': [DataSample().set_gt_label(label) for label in (0, 1)],
    }
    total, _ = model.parse_losses(model(**model.data_preprocessor(raw, training=True), mode='loss'))
    total.backward()
    if not total.isfinite():
        raise FloatingPointError('the loss is not finite')
    return model


def num_classes_in(source: Any) -> int:
    """Return the number of classes of a model before it is built; 0 if it has no class head."""
    published = getattr(source, 'published', None)
    if published is not None:
        return source.config.get('num_classes', published['num_classes'])
    return getattr(source.config.get('head'), 'num_classes', 1000)


def describe(model: torch.nn.Module, taps: Mapping[str, str], size: int) -> dict:
    """Return the cells of a row: taps, size of the images, number of parameters, and family of a model of timm."""
    parameters = sum(weight.numel() for weight in model.parameters())
    family = type(getattr(model, 'model', model)).__module__.rpartition('.')[2]
    return {**taps, 'size': size, 'parameters': parameters, 'family': family, 'classes': num_classes_of(model)}


def shorten(error: Exception) -> str:
    """Return the first sentence of a message, with paths relative to mmpretrain."""
    message = str(error).strip().split('\n')[0].replace(str(Path(mmpretrain.__file__).parent), 'mmpretrain')
    message = message.split('. ')[0] or 'no message'
    return message if message.startswith('model.') else f'{type(error).__name__}: {message}'


def outcome(row: Mapping) -> str:
    """Return 'works' or the problems."""
    return '; '.join(row['problems']) or 'works'


def as_markdown(rows: list[dict], page: str) -> str:
    """Return the page: the shares of models that work, and a row for each model."""
    by_role = {role: [row for row in rows if row['role'] == role] for role in ('teacher', 'student')}
    families = {row['family'] for row in by_role['teacher'] if outcome(row) == 'works'}
    about = f'{platform.machine()} CPU, torch {torch.__version__.split("+")[0]}, {time.strftime("%Y-%m-%d")}'
    text = page.format(
        size=IMAGE_SIZE,
        teacher_share=share_of(by_role['teacher']),
        student_share=share_of(by_role['student']),
        teachers=len(by_role['teacher']),
        families=len(families),
        about=about,
    )
    second = 'family' if by_role['student'] else 'models'
    for role, header in (('teacher', TEACHER_HEADER), ('student', STUDENT_HEADER)):
        if by_role[role]:
            text += header.format(second=second) + '\n'.join([*lines_of(by_role[role], second), ''])
    return text


def share_of(rows: list[dict]) -> str:
    """Return how many models work."""
    models = sum(1 + len(row['others']) for row in rows)
    working = sum(1 + len(row['others']) for row in rows if outcome(row) == 'works')
    return f'**{working} of {models} models work** ({100 * working / max(models, 1):.1f} %)'


def lines_of(rows: list[dict], second: str) -> Iterator[str]:
    """Yield a row for each model."""
    for row in rows:
        result = outcome(row)
        parameters = f'{row["parameters"] / 1e6:.1f}' if 'parameters' in row else '-'
        cells = [row['name'].removeprefix('timm:'), row.get('family', '-') if second == 'family' else 1 + len(row['others'])]
        cells += [parameters, *(f'`{row[tap]}`' if tap in row else '-' for tap in ('patches', 'logits'))]
        cells += [row.get('size', '-'), 'yes' if result == 'works' else result.replace('|', '/')]
        yield '| ' + ' | '.join(map(str, cells)) + ' |'


if __name__ == '__main__':
    main()
