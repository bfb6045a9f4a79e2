"""Sphinx settings. Pages may link any file of the repository by its relative path, as on a code host."""

import os
import re
from pathlib import Path

DOCS = Path(__file__).parent.resolve()
ROOT = DOCS.parents[1]
VERSION: dict[str, str] = {}
exec((ROOT / 'serkd_mm' / 'version.py').read_text(), VERSION)

project = 'serkd-mm'
author = 'serkd-mm contributors'
copyright = f'2026, {author}'
version = release = VERSION['__version__']

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.mathjax',
    'sphinx.ext.viewcode',
]
html_theme = 'furo'
html_title = f'{project} {version}'
html_static_path = ['_static']

myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_fence_as_directive = ['math']
myst_heading_anchors = 3

autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'

# Pages that show a file from outside this folder.
SHOWN_FILES = {
    'results/cifar_study': 'configs/cifar/README.md',
    'results/crd_benchmark': 'configs/crd/README.md',
    'results/operations': 'tools/benchmarks/results/README.md',
    'results/paper_tables': 'configs/serkd/README.md',
    'results/teachers': 'configs/serkd/zoo.md',
    'results/timm_models': 'configs/serkd/timm.md',
    'results/tiny_imagenet': 'configs/tiny_imagenet/README.md',
}
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#|/)([^)#\s]+)')


def resolve_links(_app, docname: str, source: list[str]) -> None:
    """Point links that leave this folder to the page that shows the file, or to a download of the file."""
    page = DOCS / f'{docname}.md'
    file = ROOT / SHOWN_FILES[docname] if docname in SHOWN_FILES else page
    pages = {(ROOT / shown).resolve(): f'/{name}.md' for name, shown in SHOWN_FILES.items()}

    def resolve(match: re.Match) -> str:
        target = (file.parent / match[1]).resolve()
        if target in pages:
            return pages[target]
        relative = os.path.relpath(target, page.parent)
        return relative if target.is_relative_to(DOCS) or target.suffix == '.png' else f'path:{relative}'

    if file.suffix == '.md' and file.is_file():
        source[0] = _LINK.sub(resolve, file.read_text() if docname in SHOWN_FILES else source[0])


def setup(app) -> None:
    """Register the handler."""
    app.connect('source-read', resolve_links)
