"""Key figures of each part of run_all.py, the most important first, from the files that the part has written."""

import json
from pathlib import Path
from xml.etree import ElementTree


class Failed(Exception):
    """The files of a part show that it failed."""


def of_check(path: Path) -> dict:
    """All numbers of a check."""
    return json.loads(path.read_text())


def of_tests(path: Path, device: str) -> dict:
    """Counts of the tests in a JUnit file.

    Args:
        path: The file.
        device: 'cpu' or 'cuda'.

    Raises:
        Failed: No test passed, or on a GPU none allocated memory there.
    """
    cases = ElementTree.parse(path).getroot().findall('.//testcase')
    passed = [case for case in cases if all(case.find(tag) is None for tag in ('failure', 'error', 'skipped'))]
    on_gpu = [case for case in passed if int(_property(case, 'cuda_allocations')) > 0]
    found = {'passed': len(passed), 'of these on the GPU': len(on_gpu)}
    found['skipped'] = len([case for case in cases if case.find('skipped') is not None])
    found['failed'] = len(cases) - found['passed'] - found['skipped']
    if not passed:
        raise Failed('no test passed')
    if device == 'cuda' and not on_gpu:
        raise Failed(f'none of the {len(passed)} tests that passed used the GPU')
    return found


def _property(case: ElementTree.Element, name: str) -> str:
    values = [one.get('value', '0') for one in case.findall('properties/property') if one.get('name') == name]
    return values[0] if values else '0'


def of_statistics(path: Path, target: str | None = None) -> dict:
    """Counts of the kernel for each target that was compiled.

    Args:
        path: What kernel_statistics.py has written.
        target: That of the GPU, which must be among them if the tool knows it. Default: None.

    Raises:
        Failed: The kernel was compiled for no target, or not for that of the GPU.
    """
    results = json.loads(path.read_text())['results']
    found = {}
    for one in results:
        if 'failed' not in one:
            where = f'{one["target"]}, {one["tokens"]} tokens'
            found[f'{where}, instructions an angle'] = one['instructions']
            found |= {f'{where}, {name}': one[name] for name in ('registers', 'occupancy', 'spills')}
    for one in results:
        if one['target'] == target and 'failed' in one:
            raise Failed(f'not compiled for {target}, which is this GPU: {one["failed"]}')
    if not found:
        raise Failed(f'compiled for no target: {results[0]["failed"]}')
    return found


def of_losses(path: Path) -> dict:
    """Time of the relation losses, and of the paper's listing relative to it."""
    cases: dict[tuple, dict] = {}
    for one in json.loads(path.read_text())['results']:
        cases.setdefault((one['loss'], one['tokens'], one['images']), {})[one['kind']] = one
    found = {}
    for (loss, tokens, images), kinds in cases.items():
        where, ours, listing = f'{loss}, {tokens} tokens x {images} images', kinds['ours'], kinds['listing']
        found |= {f'{where}, ms': 1e3 * ours['seconds'], f'{where}, MiB': ours['bytes'] / 2**20}
        if 'failed' not in listing:
            found[f'{where}, time of the listing / ours'] = listing['seconds'] / ours['seconds']
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith('angle')))


def of_growth(path: Path) -> dict:
    """Time of the angle loss in the last case of each series."""
    found = {}
    for series in json.loads(path.read_text())['results'].values():
        last = [one for one in series if one['kind'] == 'ours'][-1]
        found[f'{last["tokens"]} tokens x {last["images"]} images, ms'] = 1e3 * last['seconds']
    return found


def of_steps(path: Path) -> dict:
    """Speed of SeRKD, ratios to logit KD, and memory."""
    results = json.loads(path.read_text())['results']
    kinds = results['kinds']
    found = {'SeRKD, images / s': results['batch'] / kinds['serkd']['seconds']}
    found |= {f'{kind} / logit KD, time': one['over_kd'] for kind, one in kinds.items() if kind != 'kd'}
    found |= {f'{name}, share of the step of SeRKD': share for name, share in results['shares'].items()}
    return found | {f'{kind}, MiB of a step': one['bytes'] / 2**20 for kind, one in kinds.items() if 'bytes' in one}


def of_methods(path: Path) -> dict:
    """Time of each method relative to logit KD."""
    results = json.loads(path.read_text())['results']
    found = {f'{name} / KD, time': one['over_kd'] for name, one in results['methods'].items()}
    return {name: found[name] for name in sorted(found, key=lambda name: not name.startswith('serkd'))}
