"""The words that the project agreed on: American spelling, and the field's terms instead of our own."""

import re

import pytest
from builders import REPOSITORY

# Brackets keep this file from matching itself.
AVOIDED = {
    'American spelling': (
        r'\bdisti[l]s?\b|neighbo[u]r|colo[u]r|behavio[u]r|cent[r]e|(normal|visual|token|initial|synchron|optim)i[s]'
    ),
    'cannot': r'\bcan[ ]not\b',
    'reports, logs, raises': r'\btol[d]\b|\btell[s]\b',
    'deploy, pass': r'\bhand(s|ed|ing)?[ ]on\b',
    'custom, your own': r"of[ ]one's[ ]own|of[ ]your[ ]own",
    'name and arXiv link': r'\b(DeiT|RKD|FitNet|KD|ViT|SSN|STViT) \[\d+',
}
# Words that contain such letters and are American, and what others named.
ALLOWED = re.compile(r'(initial|optim)(ist|ism)\w*', re.IGNORECASE)
SUFFIXES = {'.py', '.md', '.rst', '.sh', '.yml', '.yaml', '.toml', '.ini', '.cff'}
FOLDERS = ('serkd_mm', 'configs', 'tools', 'tests', 'docs/en')


def project_files():
    """Text files of the repository, without what is built or linked into it."""
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob('*')):
            if path.suffix in SUFFIXES and '.mim' not in path.parts:
                yield path
    yield from (path for path in sorted(REPOSITORY.iterdir()) if path.suffix in SUFFIXES and path.is_file())


@pytest.mark.parametrize('instead', AVOIDED)
def test_agreed_words_are_used(instead):
    found = [
        f'{path.relative_to(REPOSITORY)}:{number}: {line.strip()}'
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        if re.search(AVOIDED[instead], ALLOWED.sub('', line), re.IGNORECASE)
    ]
    assert not found, f'use {instead!r} instead:\n' + '\n'.join(found)


@pytest.mark.parametrize('instead', AVOIDED)
def test_check_finds_avoided_words(instead):
    examples = {
        'American spelling': 'The colo' + 'ur is normali' + 'sed.',
        'cannot': 'It can' + ' not run.',
        'reports, logs, raises': 'The user is to' + 'ld.',
        'deploy, pass': 'It is handed' + ' on.',
        'custom, your own': 'A loss of' + " one's own.",
        'name and arXiv link': 'as in DeiT' + ' [24]',
    }
    assert re.search(AVOIDED[instead], examples[instead], re.IGNORECASE)
