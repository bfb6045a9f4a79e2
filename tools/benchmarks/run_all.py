"""Check and measure everything that needs a GPU, in one run of less than 10 minutes, and write a report to attach.

    python tools/benchmarks/run_all.py [OUT] [--quick] [--device cpu] [--parts NAME ...] [--minutes 9.5]

Each part is a process of its own; its output is in ``OUT/logs``. A part that fails does not stop the others. ``report.md``
and ``report.json`` in OUT are replaced after every part, so an interrupted run leaves a report of the parts that have ended.
Ends with status 1, and with the failures as the last lines, unless each part has passed or lacks an optional package.

Without a GPU the same parts are a rehearsal: the kernel by Triton's interpreter, gloo instead of NCCL, times of the CPU.
``--quick`` computes little: it rehearses the script, and its times mean nothing.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event

from run_all_figures import Failed
from run_all_parts import Part, Settings, machine_part, parts_of
from run_all_report import ROOT, Report, Result, read_log

NAMES = [part.name for part in parts_of(Settings(Path(), quick=False, device='cpu'))]
MINUTES = {'cuda': 9.5, 'cpu': 60.0}
SLOWER = 10  # Times the limit of a part without a GPU.
INTERRUPTED = Event()  # Set by a signal that asks the run to end. An exception could leave a process that is being started.


def main() -> int:
    """Run the parts; return the exit status."""
    args = parse_arguments()
    (args.out / 'logs').mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    about = {'date': time.strftime('%Y-%m-%d %H:%M'), **code(), 'quick': args.quick, 'interrupted': False}
    about['left out'] = [name for name in NAMES if args.parts and name not in args.parts]
    report = Report(args.out, about, start)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: INTERRUPTED.set())
    run(args, report)
    about['interrupted'] = INTERRUPTED.is_set()
    report.write()
    print(f'\n{args.out / "report.md"} and report.json, {time.monotonic() - start:.0f} s')
    if about['left out']:
        print(f'left out by --parts: {", ".join(about["left out"])}')
    failures = [f'{failure.name} {failure.status}: {failure.reason}' for failure in report.failures()]
    print(*failures or ['nothing failed'], sep='\n')
    return 130 if about['interrupted'] else int(bool(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', nargs='?', type=Path, help='folder of all results; default: tools/benchmarks/results')
    parser.add_argument('--quick', action='store_true', help='compute little; then OUT is work_dirs/run_all by default')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='by default the GPU, if any')
    parser.add_argument('--parts', nargs='+', choices=NAMES, metavar='NAME', help=f'by default all: {", ".join(NAMES)}')
    parser.add_argument('--minutes', type=float, help='time of the whole run; default: 9.5, on a CPU 60')
    args = parser.parse_args()
    default = ROOT / ('work_dirs/run_all' if args.quick else 'tools/benchmarks/results')
    args.out = (args.out or default).absolute()
    return args


def run(args: argparse.Namespace, report: Report) -> None:
    """Find the device, and run the parts on it."""
    chosen = [name for name in NAMES if not args.parts or name in args.parts]
    first = machine_part(args.out / 'logs' / 'machine.json', args.device)
    planned = parts_of(Settings(args.out, args.quick, args.device or 'cpu'))
    report.results = [Result(part.name, part.title) for part in (first, *planned) if part.name in ('machine', *chosen)]
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    run_part(first, report, environment, first.seconds)
    machine = report.results[0].figures
    if report.results[0].status == 'failed':
        for result in report.results[1:]:
            result.reason = 'machine failed'
        return
    device = machine['kind']
    report.about.update({name: value for name, value in machine.items() if name != 'date'})
    if device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = '-1'
    end = report.start + 60 * (args.minutes or MINUTES[device])
    for part in parts_of(Settings(args.out, args.quick, device, machine.get('capability'))):
        if part.name not in chosen or INTERRUPTED.is_set():
            continue
        if reason := part.lacks(machine):
            report.result(part.name).end('skipped', reason)
            print(f'{part.name}: skipped, {reason}', flush=True)
            continue
        limit = min(part.seconds * (SLOWER if device == 'cpu' else 1), end - time.monotonic())
        if limit <= 0:
            report.result(part.name).reason = 'the time of the whole run was over; see --minutes and --parts'
            continue
        run_part(part, report, environment, limit)


def run_part(part: Part, report: Report, environment: dict[str, str], limit: float) -> None:
    """Run a part in a process group of its own, for ``limit`` seconds at most, and write its result into the report."""
    result, log = report.result(part.name), report.out / 'logs' / f'{part.name}.log'
    result.status = 'running'
    report.write()
    print(f'{part.name}: {part.title} ...', end=' ', flush=True)
    begin = time.monotonic()
    written = changed_at(part.numbers)
    command = [sys.executable, '-W', 'ignore', *map(str, part.command)]
    with log.open('w') as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        while process.poll() is None and time.monotonic() < begin + limit and not INTERRUPTED.is_set():
            time.sleep(0.1)
        status = process.poll()
        stop(process)
    result.seconds = time.monotonic() - begin
    if status is not None:
        result.end('failed' if status else 'passed', last_line(log) if status else '')
    elif INTERRUPTED.is_set():
        result.end('failed', 'interrupted')
    else:
        result.end('failed', f'did not end within {limit:.0f} s; last line: {last_line(log)}')
    read_figures(part, result, changed_at(part.numbers) != written)
    report.write()
    print(f'{result.status} in {result.seconds:.0f} s{": " * bool(result.reason)}{result.reason}', flush=True)


def changed_at(path: Path) -> int | None:
    """When a file was changed, in nanoseconds; None without it."""
    return path.stat().st_mtime_ns if path.is_file() else None


def read_figures(part: Part, result: Result, is_new: bool) -> None:
    """Read the key figures, if the part has written any; they may show that it failed."""
    try:
        if is_new:
            result.figures = part.figures(part.numbers)
        elif result.status == 'passed':
            result.end('failed', f'wrote no {part.numbers.name}')
    except Exception as error:  # A file that is not complete: each format raises errors of its own.
        if result.status == 'passed':
            result.end('failed', str(error) if isinstance(error, Failed) else f'{part.numbers.name}: {error!r}')


def stop(process: subprocess.Popen) -> None:
    """End the processes of a group, also those that a process which has ended left behind.

    torchrun kills its ranks, which are in other groups, 30 seconds after SIGTERM.
    """
    for number, seconds in ((signal.SIGTERM, 35), (signal.SIGKILL, 5)):
        end = time.monotonic() + seconds
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < end:
                process.poll()
                os.killpg(process.pid, 0)  # Raises when the group is empty.
                time.sleep(0.05)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, as far as it fits a report."""
    lines = read_log(log)
    return lines[-1].strip()[:500] if lines else 'it printed nothing'


def code() -> dict[str, str]:
    """Version of the package, and the commit if this is a clone."""
    found: dict[str, str] = {}
    exec((ROOT / 'serkd_mm' / 'version.py').read_text(), {}, found)
    about = {'serkd_mm': found['__version__']}
    with suppress(OSError, subprocess.CalledProcessError):
        commands = (['git', 'rev-parse', 'HEAD'], ['git', 'status', '--porcelain', '--untracked-files=no'])
        commit, changes = (
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
        about['commit'] = commit[:12] + ' with changes' * bool(changes)
    return about


if __name__ == '__main__':
    sys.exit(main())
