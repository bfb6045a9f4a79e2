"""Attempts with unusual checkpoints."""

from pathlib import Path

import torch
from area_tools import config
from builders import STUDENT, build_distiller
from judging import Act, check, refused, works
from mmengine.runner import Runner, load_checkpoint
from mmpretrain.registry import MODELS
from starting import check_equal, tool, train, training_file, weights


def other_student(file: Path) -> None:
    """Save a checkpoint of a student of another width."""
    other = dict(STUDENT, backbone=dict(STUDENT['backbone'], arch=dict(STUDENT['backbone']['arch'], embed_dims=32)))
    torch.save(dict(state_dict=MODELS.build(dict(other, head=dict(STUDENT['head'], in_channels=32))).state_dict()), file)


def tested_with(save, *flags: str, **changes) -> Act:
    """Evaluate what ``save(file)`` saves."""

    def act(folder: Path) -> None:
        save(folder / 'x.pth')
        tool('test.py', config(folder, **changes), folder / 'x.pth', *flags)

    return act


def same_accuracy(change) -> Act:
    """A checkpoint in another form gives the same weights by ``load_from``."""

    def act(folder: Path) -> None:
        model = build_distiller()
        checkpoint = dict(state_dict=dict(model.state_dict()), meta={})
        torch.save(change(checkpoint), folder / 'x.pth')
        runner = Runner.from_cfg(training_file(folder, load_from=str(folder / 'x.pth')))
        runner.load_or_resume()
        student = {name: value for name, value in checkpoint['state_dict'].items() if not name.startswith('distill.')}
        loaded = runner.model.state_dict()
        check_equal({name: loaded[name] for name in student}, student, 'weights after load_from')

    return act


def to_plain(folder: Path) -> None:
    train(folder)
    plain = MODELS.build(STUDENT)
    load_checkpoint(plain, str(folder / 'work' / 'epoch_2.pth'), map_location='cpu')
    saved = weights(folder / 'work' / 'epoch_2.pth')
    check_equal(plain.state_dict(), {name: saved[name] for name in plain.state_dict()}, 'the plain student')


def resumed_from(change, epochs: int = 2) -> Act:
    """Train an epoch, then resume by the tool from what ``change(folder)`` returns, which may be in another folder."""

    def act(folder: Path) -> None:
        train(folder, train_cfg__max_epochs=1)
        source = change(folder)
        tool('train.py', config(folder, train_cfg__max_epochs=epochs), '--resume', source, '--overwrite')
        check((folder / 'work' / f'epoch_{epochs}.pth').is_file(), 'the run did not resume')

    return act


def by_link(folder: Path) -> Path:
    (folder / 'link.pth').symlink_to(folder / 'work' / 'epoch_1.pth')
    return folder / 'link.pth'


def of_other_student(folder: Path) -> Path:
    checkpoint = torch.load(folder / 'work' / 'epoch_1.pth', weights_only=True)
    other_student(folder / 'other.pth')
    checkpoint['state_dict'].update(weights(folder / 'other.pth'))
    torch.save(checkpoint, folder / 'other.pth')
    return folder / 'other.pth'


def with_more_keys(folder: Path) -> Path:
    checkpoint = torch.load(folder / 'work' / 'epoch_1.pth', weights_only=True)
    checkpoint.update(new_in_2030=dict(a=1))
    checkpoint['meta'].update(serkd_version='9.9')
    torch.save(checkpoint, folder / 'new.pth')
    return folder / 'new.pth'


def of_plain_mmpretrain(folder: Path) -> Path:
    """A checkpoint that mmpretrain saved while it trained the plain student on labels."""

    def plain(part) -> None:
        part.model = dict(STUDENT, head=dict(STUDENT['head'], distilled_training=False))
        part.pop('custom_hooks')
        part.default_hooks.checkpoint = dict(type='CheckpointHook')

    train(folder, 'plain', plain, train_cfg__max_epochs=1)
    return folder / 'plain' / 'epoch_1.pth'


PREFIXED = same_accuracy(lambda c: dict(c, state_dict={f'module.{name}': value for name, value in c['state_dict'].items()}))
ATTEMPTS = [
    refused('resume from a folder', resumed_from(lambda f: f / 'work'), 'work', 'directory'),
    works('resume from a link', resumed_from(by_link)),
    works('resume by a relative path', resumed_from(lambda f: 'work/epoch_1.pth')),
    works('resume from a checkpoint of a newer version with more keys', resumed_from(with_more_keys)),
    refused('resume from a checkpoint of another student', resumed_from(of_other_student), 'other.pth'),
    refused('resume from a training of plain mmpretrain', resumed_from(of_plain_mmpretrain), 'epoch_1.pth'),
    works('load_from a plain state dict', same_accuracy(lambda c: c['state_dict'])),
    works('load_from a checkpoint of DataParallel', PREFIXED),
    works(
        'load_from a checkpoint with further weights',
        same_accuracy(lambda c: dict(c, state_dict={**c['state_dict'], 'extra.weight': torch.zeros(3)})),
    ),
    works(
        'load_from a checkpoint in float16 loads its values',
        same_accuracy(lambda c: c['state_dict'].update({n: v.half().float() for n, v in c['state_dict'].items()}) or c),
    ),
    works('a plain student loads a distilled checkpoint', to_plain),
    refused('evaluate a checkpoint of another student', tested_with(other_student), 'x.pth'),
    refused('evaluate a tensor', tested_with(lambda file: torch.save(torch.zeros(3), file)), 'x.pth'),
    refused('evaluate a list of numbers', tested_with(lambda file: torch.save([1, 2], file)), 'x.pth'),
    refused(
        'evaluate a checkpoint of weights that are numbers',
        tested_with(lambda file: torch.save(dict(state_dict=dict(a=1)), file)),
        'x.pth',
    ),
    works(
        "evaluate while the teacher's file is missing",
        tested_with(lambda file: torch.save(build_distiller().state_dict(), file), model__teacher__checkpoint='gone.pth'),
    ),
    refused(
        'evaluate into an unknown format',
        tested_with(lambda file: torch.save(build_distiller().state_dict(), file), '--out', 'x.txt'),
        'output file',
        'pkl',
    ),
]
