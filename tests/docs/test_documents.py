"""The documentation is correct: its names, links, tests and tables exist."""

import importlib
import importlib.util
import re

import pytest
from builders import REPOSITORY
from mmengine.fileio import load
from pages import DOCS, blocks

import serkd_mm

DOCUMENTS = [REPOSITORY / 'README.md', *sorted(DOCS.rglob('*.md'))]
SHOWN = [
    *(REPOSITORY / 'configs' / name / 'README.md' for name in ('cifar', 'crd', 'serkd', 'tiny_imagenet')),
    REPOSITORY / 'tools/benchmarks/results/README.md',
]


def name_of(path):
    """A document's path, as the name of a test's parameter."""
    return str(path.relative_to(REPOSITORY))


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
