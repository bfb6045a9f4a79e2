"""The documentation is correct: its commands and code run, and its names, links and messages exist."""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from builders import (
    REPOSITORY,
    TEACHER,
    Command,
    copy_repository,
    distiller_config,
    images,
    labels,
    training_config,
    write_images,
)
from cache_tool import cache_teacher, save_teacher, train, write_config
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from sklearn.datasets import load_sample_image

import serkd_mm
from serkd_mm.analysis import RunLog
from serkd_mm.config_errors import ConfigError
from serkd_mm.fileio import AtomicBackend, CheckpointError, DownloadError, WorkDirError, WriteError, processes
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.work_dir import find_start
from serkd_mm.hooks import DataError, NonFiniteLossError
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.model_sources.weights_file import WeightsFile
from serkd_mm.runner import CheckedRunner
from serkd_mm.teacher_cache import CacheError

DOCS = REPOSITORY / 'docs' / 'en'
DOCUMENTS = [REPOSITORY / 'README.md', *sorted(DOCS.rglob('*.md'))]
SHOWN = [
    REPOSITORY / name
    for name in ('configs/cifar/README.md', 'configs/serkd/README.md', 'tools/benchmarks/results/README.md')
]


def name_of(path):
    """A document's path, as the name of a test's parameter."""
    return str(path.relative_to(REPOSITORY))


def blocks(document, *kinds):
    """Return kind and text of the code blocks of a document."""
    found = re.findall(r'^```(\w+)\n(.*?)^```', document.read_text(), re.DOTALL | re.MULTILINE)
    return [(kind, body) for kind, body in found if kind in kinds]


def write(code, folder):
    """Write a block of code to the file that its first line names."""
    file = folder / code.split('\n')[0].removeprefix('# ')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    return file


def run_page(page, clone):
    """Run the blocks of a page in a copy of the repository; return what its commands print."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    environment = {**os.environ, 'PATH': path, 'PYTHONPATH': str(clone), 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': '1'}
    environment['COLUMNS'] = '100'
    output = ''
    for kind, body in blocks(DOCS / 'user_guides' / page, 'python', 'bash'):
        if kind == 'python':
            write(body, clone)
            continue
        done = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', body], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, body + done.stdout[-3000:] + done.stderr[-3000:]
        output += done.stdout
    return output


@pytest.mark.slow
def test_tutorial_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    run_page('tutorial.md', clone)
    assert (clone / 'work_dirs' / 'compare' / 'compare.png').is_file()
    assert list((clone / 'work_dirs' / 'superpixels').glob('*.png'))
    assert list((clone / 'work_dirs' / 'student').glob('published*.pth'))
    table = (clone / 'work_dirs' / 'compare' / 'compare.md').read_text()
    accuracy = {name: float(best) for name, best in re.findall(r'^\| (\w+) \| ([\d.]+) ', table, re.MULTILINE)}
    assert accuracy['teacher'] > 60
    assert accuracy['student'] > 25  # 10 is chance


@pytest.mark.slow
def test_page_on_training_without_the_teacher_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    output = run_page('teacher_cache.md', clone)
    ((_, printed),) = blocks(DOCS / 'user_guides' / 'teacher_cache.md', 'text')
    lines = [' '.join(line.split()) for line in output.splitlines()]
    for line in filter(lambda line: line.strip('─'), (' '.join(line.split()) for line in printed.splitlines())):
        assert any(re.fullmatch(pattern(line), other) for other in lines), line
    assert 'records of data/relations were recomputed: their images are the same' in output
    assert {path.stem for path in (clone / 'data' / 'family').glob('*.py')} == {'student_serkd', 'student_kd'}
    cached, live = (RunLog(clone / 'work_dirs' / name) for name in ('student_relations_cached', 'live'))
    assert set(cached.terms) == {'loss', 'loss_cls', 'loss_kd', 'loss_rd', 'loss_ra'}
    for name in cached.terms:
        with_teacher = [value for _, value in live.term(name)]
        assert [value for _, value in cached.term(name)] == pytest.approx(with_teacher, rel=2e-2), name
        assert len(with_teacher) == 6


@pytest.mark.slow
def test_page_on_teachers_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    cv2.imwrite(str(clone / 'flower.jpg'), load_sample_image('flower.jpg')[..., ::-1])
    output = run_page('teachers.md', clone)
    assert "Wrote checkpoints/efficientnet-lite0.pth: model='timm:tf_efficientnet_lite0'" in output
    assert "The teacher's weights: checkpoints/efficientnet-lite0.pth" in output
    assert cv2.imread(str(clone / 'work_dirs' / 'superpixels' / 'flower.png')).std() > 10
    for name, classes in {'no_head': None, 'pets': 4}.items():
        model = Config.fromfile(clone / 'configs' / 'mine' / f'{name}.py').model
        model.teacher.update(checkpoint=None, allow_random_teacher=True)
        built = MODELS.build(model)
        assert {'loss_rd', 'loss_ra', 'loss_feat'} <= set(built.distill.losses)
        assert ('loss_kd' in built.distill.losses) == (classes is not None)
        assert classes is None or built.teacher(images(size=224))['logits'].tensor.shape == (4, classes)


@pytest.mark.usefixtures('runner_scope')
def test_children_of_the_configs_on_teachers_read_class_folders_and_bring_a_loss_back(tmp_path, monkeypatch):
    clone, page = copy_repository(tmp_path / 'clone'), DOCS / 'user_guides' / 'teachers.md'
    files = {file.stem: file for file in (write(code, clone) for _, code in blocks(page, 'python'))}
    for split in ('train', 'val'):
        write_images(clone / 'data' / 'pets' / split, per_class=1)
    monkeypatch.chdir(clone)
    config = Config.fromfile(files['pet_folders'])
    init_default_scope('mmpretrain')  # As every Runner does.
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        dataset = CheckedRunner.build_dataloader(loader).dataset
        assert len(dataset.CLASSES) == config.data_preprocessor.num_classes == 4
        assert dataset[0]['inputs'].shape == (3, 224, 224)
        assert split == 'train' or config[f'{split}_evaluator'].topk == (1,)
    (loss,) = re.findall(r'brings the loss back with\n`(.*)`', page.read_text())
    child = files['no_head'].with_name('child.py')
    child.write_text(f"_base_ = './no_head.py'\nmodel = dict(losses=dict({loss}))\n")
    assert Config.fromfile(child).model.losses.loss_kd == dict(type='LogitKLLoss', on='logits')


def test_custom_loss_and_merger_of_the_page_on_extending_work(tmp_path, monkeypatch):
    files = [write(code, tmp_path) for _, code in blocks(DOCS / 'advanced_guides' / 'extending.md', 'python')]
    assert [file.name for file in files] == ['my_losses.py', 'my_mergers.py', 'rows.py']
    assert all(len(file.read_text().strip().splitlines()) <= 21 for file in files)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('my_losses', 'my_mergers'):
        importlib.import_module(name)
    settings = {}
    exec(files[2].read_text(), settings)  # A child config: assignments alone.
    model = distiller_config()
    model.views.update(settings['model']['views'])
    model.losses.update(settings['model']['losses'])
    built = MODELS.build(model).train()
    losses = built(images(), labels(), mode='loss')
    losses['loss_rows'].backward()
    assert losses['loss_rows'] > 0
    merged, association = built.distill.views['rows'].merger.associate(torch.randn(2, 5, 3, 4))
    assert (merged.shape, association.shape) == ((2, 5, 3, 1), (2, 12, 3))
    assert torch.equal(association.sum(dim=2), torch.ones(2, 12))


@pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)
def test_names_and_files_in_the_documents_exist(document):
    text = document.read_text()
    if document.stem == 'migration':
        text = re.sub(r'^\| [^|]*', '', text, flags=re.MULTILINE)  # The first column has the names of 0.1.
    for name in set(re.findall(r'`(serkd_mm(?:\.\w+)+)`', text)):
        owner, attribute = name.rsplit('.', 1)
        assert hasattr(importlib.import_module(owner), attribute) or importlib.util.find_spec(name), name
    written = {code.split('\n')[0].removeprefix('# ') for _, code in blocks(document, 'python')}
    for file in set(re.findall(r'(?<![\w/])((?:configs|tools|tests|docs|serkd_mm)/[\w./-]*\.(?:py|sh|md))', text)) - written:
        assert (REPOSITORY / file).is_file(), file


@pytest.mark.parametrize('document', [*DOCUMENTS, *SHOWN], ids=name_of)
def test_relative_links_lead_to_files(document):
    text = document.read_text()
    for link in re.findall(r'\]\((?!\w+:)([^)]+)\)', text):
        path, _, anchor = link.partition('#')
        target = document.parent / path if path else document
        assert target.is_file(), link
        titles = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r'[^\w -]', '', title).lower().replace(' ', '-') for title in titles], link


@pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)
def test_named_tests_exist(document):
    for paths, _, words in re.findall(r'`pytest ([\w/. ]+)( -k "?([^"`]+)"?)?`', document.read_text()):
        files = [REPOSITORY / path for path in paths.split()]
        files = [file for path in files for file in ([path] if path.is_file() else sorted(path.rglob('test_*.py')))]
        names = re.findall(r'^def (test_\w+)', '\n'.join(file.read_text() for file in files), re.MULTILINE)
        assert names, paths
        for word in set(re.findall(r'\w+', words)) - {'and', 'or'}:
            assert any(word in name for name in names) or any(f"'{word}'" in file.read_text() for file in files), word


def test_readme_is_short():
    assert len((REPOSITORY / 'README.md').read_text().splitlines()) <= 130


def test_every_equation_of_the_method_links_its_function_and_its_test():
    text, *_ = (DOCS / 'advanced_guides' / 'method.md').read_text().split('## One training step')
    rows = re.findall(r'^\| (.*?) \|(.*)$', text, re.MULTILINE)
    table = {equation: row for name, row in rows for equation in re.findall(r'\(\d+\)|L_F', name)}
    assert {f'({number})' for number in (1, 2, 3, *range(7, 14))} | {'L_F'} <= set(table)
    assert all('../serkd_mm/' in row and '../tests/' in row for row in table.values())
    named = re.findall(r'`(\w+)` in \[[\w.]+\]\(\.\./\.\./\.\./([\w/.]+)\)', text)
    assert len(named) > len(rows)
    assert all(re.search(rf'(?:def|class) {name}\b|F\.{name}\(', (REPOSITORY / file).read_text()) for name, file in named)
    assert 'docs/en/advanced_guides/method.md' in (REPOSITORY / 'README.md').read_text()


def test_every_page_is_in_the_table_of_contents():
    contents = (DOCS / 'index.md').read_text()
    pages = [path.relative_to(DOCS).with_suffix('') for path in DOCS.rglob('*') if path.suffix in ('.md', '.rst')]
    assert all(f'\n{page}\n' in contents for page in pages if str(page) != 'index')


def test_citation_names_this_version():
    citation = load(REPOSITORY / 'CITATION.cff', file_format='yaml')
    assert citation['version'] == serkd_mm.__version__
    assert citation['references'][0]['url'] in (REPOSITORY / 'README.md').read_text()


def pattern(quote):
    """Return the regular expression of a quoted message; dots stand for the reader's own names."""
    return '.*'.join(map(re.escape, quote.split('...')))


QUOTES = re.findall(r'^> `(.*)`$', (DOCS / 'notes' / 'faq.md').read_text(), re.MULTILINE)
LARGE_GRID = dict(TEACHER, backbone=dict(TEACHER['backbone'], patch_size=4))
MORE_CLASSES = dict(TEACHER, head=dict(TEACHER['head'], num_classes=7))
UNLABELED = dict(loss_cls=None, loss_feat=dict(type='FeatureL2Loss', on='tokens'))
MISTAKES = {
    'checkpoint is missing': dict(teacher__allow_random_teacher=False),
    'there is no such file': dict(teacher__allow_random_teacher=False, teacher__checkpoint='teacher.pth'),
    'has no module': dict(student__taps__patches='backbone.layer[-1]'),
    'grids of different shape': dict(teacher__model=LARGE_GRID),
    'larger than the token grid': dict(views__superpixels__merger__cell=5),
    'PatchTokenizer reads': dict(teacher__taps__patches='backbone.patch_embed.projection'),
    'no loss trains the student': dict(losses__loss_kd=None),
    'without labels': dict(losses=UNLABELED, student__taps=dict(patches='backbone.layers[0]')),
    'loss_kd (LogitKLLoss': dict(teacher__model=MORE_CLASSES),
    "has no 'type'": dict(losses__loss_kdd=dict(loss_weight=2.0)),
}


def quoted(part):
    (quote,) = [quote for quote in QUOTES if part in quote]
    return pattern(quote)


@pytest.mark.parametrize('part', MISTAKES)
def test_quoted_config_errors_are_the_real_ones(part):
    with pytest.raises(ConfigError) as error:
        MODELS.build(distiller_config(**MISTAKES[part]))
    assert re.search(quoted(part), str(error.value)), error.value


def change_a_bit(file):
    torch.save(torch.arange(100.0), file)
    file.write_bytes(file.read_bytes().replace(b'\x80\x3f', b'\x80\x40'))


TEACHER_FILES = {
    'does not match': lambda file: torch.save(dict(list(MODELS.build(TEACHER).state_dict().items())[1:]), file),
    'holds more than weights': lambda file: torch.save(dict(meta=Command(str(file.with_name('trap')))), file),
    'does not have the checksum': change_a_bit,
    'could not be fetched': lambda file: None,
}


def raise_error(part, image_root, tmp_path):
    """Make a mistake outside the config's text, which raises the error that is quoted with ``part``."""
    file = tmp_path / 'epoch_1.pth'
    if part in TEACHER_FILES:
        TEACHER_FILES[part](file)
        url = file.as_uri() if part == 'could not be fetched' else str(file)
        MODELS.build(distiller_config(teacher__checkpoint=url, teacher__allow_random_teacher=False)).teacher.load()
    elif part == 'not the published file':
        torch.save({}, file)
        WeightsFile(file.as_uri(), published_hash='0123abcd').fetch()
    elif part == '--resume finds':
        file.write_bytes(b'PK')
        (tmp_path / 'last_checkpoint').write_text(str(file))
        tool = importlib.util.spec_from_file_location('tool', REPOSITORY / 'tools' / 'mmpretrain_tools.py')
        module = importlib.util.module_from_spec(tool)
        tool.loader.exec_module(module)
        module.check_checkpoint(Config(dict(resume=True, work_dir=str(tmp_path))))
    elif part == 'would overwrite':
        file.touch()
        find_start(tmp_path, tmp_path)
    elif part == 'is in use':
        lock = RunLock(tmp_path / 'run.lock')
        lock._record.update(pid=os.getppid(), process=processes._identity(os.getppid()))  # A process that lives.
        lock.acquire(print)
        RunLock(tmp_path / 'run.lock').refuse_if_held()
    elif part == 'could not be written':
        file.touch()
        AtomicBackend().put(b'', file / 'epoch_2.pth')
    elif part == 'holds 0 entries':
        load_all_weights(MODELS.build(TEACHER), {}, repr(str(file)))
    else:
        images_there = shutil.copytree(image_root, tmp_path / 'images')
        if part == 'has the label':
            shutil.copytree(images_there / 'class0', images_there / 'class4')
        elif part == 'Replace the file':
            (images_there / 'class0' / '0.jpg').write_bytes(b'')
        config = training_config(images_there, tmp_path / 'work')
        if part == 'have no labels':
            config.train_dataloader.dataset.with_label = False
        if part == 'is not finite':
            config.optim_wrapper.optimizer.lr = 1e30
            config.param_scheduler = []
        Runner.from_cfg(config).train()


ERRORS = {
    'does not match': ConfigError,
    'holds more than weights': ConfigError,
    'could not be fetched': ConfigError,
    'not the published file': DownloadError,
    'does not have the checksum': ConfigError,
    '--resume finds': CheckpointError,
    'would overwrite': WorkDirError,
    'is in use': WorkDirError,
    'could not be written': WriteError,
    'holds 0 entries': CheckpointError,
    'has the label': DataError,
    'Replace the file': DataError,
    'have no labels': DataError,
    'is not finite': NonFiniteLossError,
}


@pytest.mark.usefixtures('runner_scope')
@pytest.mark.parametrize('part', ERRORS)
def test_quoted_file_and_training_errors_are_the_real_ones(part, image_root, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # As the tools do.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with pytest.raises(ERRORS[part]) as error:
        raise_error(part, image_root, tmp_path)
    assert re.search(quoted(part), str(error.value)), error.value


CACHE_ERRORS = {
    'from other views': (CacheError, {'train_dataloader.dataset.seed': 1}),
    'does not hold': (ConfigError, {'model.losses.loss_feat': dict(type='FeatureL2Loss', on='tokens')}),
    'its checksum differs': (CacheError, {}),
}


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_quoted_errors_of_a_teacher_cache_are_the_real_ones(tmp_path, monkeypatch):
    root, cache = write_images(tmp_path / 'images', per_class=1), tmp_path / 'cache'
    config = write_config(tmp_path / 'config.py', root, save_teacher(tmp_path / 'teacher.pth'), ('loss_kd', 'loss_rd'))
    cache_teacher(monkeypatch, config, '--out', cache, '--views', 1)
    shutil.copy(root / 'class1' / '0.jpg', root / 'class2' / '0.jpg')
    for part, (kind, changes) in CACHE_ERRORS.items():
        with pytest.raises(kind) as error:
            train(cache / 'train.py', tmp_path / 'work', **changes)
        assert re.search(quoted(part), str(error.value)), error.value


def test_every_quoted_error_is_compared():
    parts = [*MISTAKES, *ERRORS, *CACHE_ERRORS]
    assert len(parts) == len(QUOTES)
