"""The pages of the documentation: their blocks of code, and what they quote."""

import os
import re
import subprocess
import sys
from pathlib import Path

from builders import REPOSITORY, python_path

DOCS = REPOSITORY / 'docs' / 'en'


def blocks(document, *kinds):
    """Return kind and text of the code blocks of a document."""
    found = re.findall(r'^```(\w+)\n(.*?)^```', document.read_text(), re.DOTALL | re.MULTILINE)
    return [(kind, body) for kind, body in found if kind in kinds]


def write_code(code, folder):
    """Write a block of code to the file that its first line names."""
    file = folder / code.split('\n')[0].removeprefix('# ')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    return file


def run_page(page, clone):
    """Run the blocks of a page in a copy of the repository; return what its commands print."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    settings = {'PYTHONPATH': python_path(clone), 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': '1', 'COLUMNS': '100'}
    environment = {**os.environ, 'PATH': path, **settings}
    output = ''
    for kind, body in blocks(DOCS / 'user_guides' / page, 'python', 'bash'):
        if kind == 'python':
            write_code(body, clone)
            continue
        done = subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', body], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, body + done.stdout[-3000:] + done.stderr[-3000:]
        output += done.stdout
    return output


def pattern(quote):
    """Return the regular expression of a quoted message; dots stand for the reader's own names."""
    return '.*'.join(map(re.escape, quote.split('...')))
