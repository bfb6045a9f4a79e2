"""Instructions, registers and occupancy of the angle kernel, compiled ahead of time: no GPU is needed, and none is used.

    python tools/benchmarks/kernel_statistics.py [--targets sm_80 sm_90] [--tokens 49 196] [--batch 128] [--out FILE]
    python tools/benchmarks/kernel_statistics.py --tiles 64x8 32x8 [--kernel FILE --warps 8]

The second form has a row for each tile, to choose those of the kernel, and compares it with that of another version: FILE is
``serkd_mm/ops/angle_relation_triton.py`` of any version.

Instructions are those of the innermost loop, over the vertices, divided by the angles of its tile, padded ones included. The
last column divides by the B x L^3 angles of the loss instead, so what is computed for padding adds to them.

Occupancy is (programs on a multiprocessor) x (warps of a program) / (most warps). Programs are limited by registers (a warp
takes 32 times as many as a thread, rounded up to 256, from one of four files of 16,384), by shared memory (with 1 KiB more
for each program), by the most programs and by the most warps; ``LIMITS`` has the numbers.

Times are estimates, not measurements: the longest of issuing all instructions (4 a cycle and multiprocessor), of float32
arithmetic (``DEVICES``), and of instructions that access memory or exchange between lanes (1 a cycle), divided by
``EFFICIENCY``; kernel_time.py has the formula and these numbers. Schedulers without a warp are idle. The bound by memory
moves every input and output once; the bound by arithmetic computes ``OPERATIONS`` for each of the B x L^3 angles.
"""

import argparse
import json
import math
import os
import re
import subprocess
import time
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ.pop('TRITON_INTERPRET', None)  # The interpreter replaces the functions that are compiled here.
os.environ.setdefault('TRITON_DEFAULT_FP_FUSION', '1')

import triton
from kernel_time import DEVICES, estimate
from mmengine.utils import digit_version
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from serkd_mm.ops import angle_relation_triton


class Limits(NamedTuple):
    """Of one multiprocessor: most warps, most programs, bytes of shared memory."""

    warps: int
    programs: int
    shared: int


# CUDA C++ Programming Guide, technical specifications by compute capability. All have 65,536 registers.
LIMITS = {
    'sm_75': Limits(32, 16, 64 * 1024),
    'sm_80': Limits(64, 32, 164 * 1024),
    'sm_86': Limits(48, 16, 100 * 1024),
    'sm_89': Limits(48, 24, 100 * 1024),
    'sm_90': Limits(64, 32, 228 * 1024),
    'sm_100': Limits(64, 32, 228 * 1024),
}
KINDS = {
    'arithmetic': r'[FD](ADD|MUL|FMA|MNMX|SETP|SEL)|MUFU|v_(pk_)?(add|sub|mul|fma|min|max|med3)\w*_f',
    'shuffles': r'SHFL|ds_bpermute|ds_swizzle|v_permlane|v_mov_b32_dpp|v_\w+_dpp',
    'memory': r'LD|ST|RED|ATOM|global_|buffer_|flat_|scratch_|ds_|s_load',
    'barriers': r'BAR|WARPSYNC|s_barrier',
}
TARGETS = [*LIMITS, 'gfx942']
HEADINGS = {
    'target': 'target',
    'tokens': 'tokens',
    'tile': 'tile',
    'registers': 'registers',
    'spills, bytes': 'spills',
    'shared memory, bytes': 'shared',
    'occupancy': 'occupancy',
    'instructions an angle': 'instructions',
    **{kind: kind for kind in KINDS},
    'other': 'other',
    'an angle of the B x L^3': 'real',
}


def compile_kernel(target: str, rows: int, columns: int, dtype: str = 'fp32', kernel: Any = None, warps: int = 1) -> Any:
    """Compile a kernel, by default the present one, for a target such as 'sm_90' or 'gfx942'."""
    kernel = kernel or angle_relation_triton._angle_sums_kernel
    # Until 0.6.0, inverse distances were arguments of their own.
    pairs = '*i64' if dtype == 'fp32' and 'inverse_ptr' not in kernel.arg_names else f'*{dtype}'
    types = {name: f'*{dtype}' if name.endswith('_ptr') else 'i32' for name in kernel.arg_names}
    types |= {'student_ptr': pairs, 'teacher_ptr': pairs, 'chosen_ptr': '*i8', 'ROWS': 'constexpr', 'COLUMNS': 'constexpr'}
    aligned = {(place,): [['tt.divisibility', 16]] for place, name in enumerate(kernel.arg_names) if name.endswith('_ptr')}
    source = ASTSource(kernel, types, constexprs={'ROWS': rows, 'COLUMNS': columns}, attrs=aligned)
    number = target.partition('_')[2]
    goal = GPUTarget('cuda', int(number), 32) if number else GPUTarget('hip', target, 64)
    return triton.compile(source, target=goal, options={'num_warps': warps})


def statistics(compiled: Any, target: str, rows: int, columns: int, folder: Path, warps: int = 1) -> dict[str, Any]:
    """Registers, spills, shared memory, occupancy, and instructions an angle by kind, of a compiled kernel."""
    lanes = (32 if target in LIMITS else 64) * warps
    shared = compiled.metadata.shared
    if target in LIMITS:
        registers, spills, instructions = _of_cubin(compiled.asm['cubin'], folder / f'{target}.cubin')
        occupancy = nvidia_occupancy(LIMITS[target], registers, shared, warps)
    else:
        registers, spills, instructions = _of_amd(compiled.asm['amdgcn'])
        occupancy = min(512 // (8 * math.ceil(registers / 8)), 8) / 8  # 512 registers for the waves of a SIMD, 8 at most.
    loop = innermost_loop(instructions)
    # Two sums are stored for every token j and vertex: how often the compiler has unrolled the loop.
    stores = sum(name.startswith(('STG', 'global_store')) for name in loop)
    unrolled = max(round(stores / (2 * max(rows // lanes, 1))), 1)
    kinds = Counter(next((kind for kind, names in KINDS.items() if re.match(names, name)), 'other') for name in loop)
    angles = unrolled * rows * columns / lanes
    counts = {kind: kinds[kind] / angles for kind in [*KINDS, 'other']}
    found = {'registers': registers, 'spills': spills, 'shared': shared, 'occupancy': occupancy}
    return {**found, 'instructions': len(loop) / angles, **counts}


def nvidia_occupancy(limits: Limits, registers: int, shared: int, warps: int) -> float:
    """Share of the most warps that fit a multiprocessor; the formula is in the module's docstring."""
    by_registers = 4 * (65536 // 4 // (256 * math.ceil(registers * 32 / 256))) // warps
    by_shared = limits.shared // (shared + 1024)
    return min(by_registers, by_shared, limits.programs, limits.warps // warps) * warps / limits.warps


def innermost_loop(instructions: list[tuple[int, str, int | None]]) -> list[str]:
    """The names of the instructions of the longest loop without loops, of (address, name, address of a jump)."""
    loops = [(to, at) for at, _, to in instructions if to is not None and to < at]
    inner = [
        (begin, end) for begin, end in loops
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loops)
    ]  # fmt: skip
    begin, end = max(inner, key=lambda loop: loop[1] - loop[0])
    return [name for at, name, _ in instructions if begin <= at <= end]


def _of_cubin(cubin: bytes, path: Path) -> tuple[int, int, list]:
    """Registers, bytes of spills and instructions of a cubin, from Triton's own cuobjdump."""
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    commands = ([tool, flag, path] for flag in ('-res-usage', '-sass'))
    usage, code = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands)
    registers, spills = (int(re.search(rf'{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK'))
    found = []
    for address, text in re.findall(r'/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;', code):
        jump = re.match(r'BRA.*?0x([0-9a-f]+)', text)
        found.append((int(address, 16), text.split()[0], int(jump[1], 16) if jump else None))
    return registers, spills, found


def _of_amd(code: str) -> tuple[int, int, list]:
    """Vector registers, spilled registers and instructions of AMD's assembly; an address is the number of a line."""
    registers, spills = (int(re.search(rf'\.{name}:\s+(\d+)', code)[1]) for name in ('vgpr_count', 'vgpr_spill_count'))
    lines = [line.split(';')[0].strip() for line in code.partition('.section')[0].splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(':')}
    found = []
    for number, line in enumerate(lines):
        words = line.split()
        if words and not line.endswith(':') and not line.startswith('.'):
            found.append((number, words[0], labels.get(words[-1]) if 'branch' in words[0] else None))
    return registers, spills, found


def of_tokens(num_tokens: int, exact: bool, batch: int, by_tile: dict[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
    """Combine the statistics of the tiles that a number of tokens is computed with: counts weighted by their angles."""
    blocks = angle_relation_triton.row_blocks(num_tokens, exact)
    angles = {
        (rows, columns): count * rows * math.ceil(num_tokens / columns) * columns for _, count, rows, columns in blocks
    }
    total = sum(angles.values())
    found = {name: max(by_tile[tile][name] for tile in angles) for name in ('registers', 'spills', 'shared')}
    found['occupancy'] = min(by_tile[tile]['occupancy'] for tile in angles)
    for name in ('instructions', *KINDS, 'other'):
        found[name] = sum(by_tile[tile][name] * number for tile, number in angles.items()) / total
    found['padding'] = total / num_tokens**2
    found['real'] = found['instructions'] * found['padding']
    parts, _ = angle_relation_triton.parts_of(batch, num_tokens, blocks)
    first, count, rows, _ = blocks[-1]
    found['warps'] = parts * sum(block[1] for block in blocks)  # Of an image.
    found['numbers'] = (first + count * rows) ** 2 * (4 + 1 + 2 * parts)  # Inputs and outputs of an image.
    found['tile'] = ' + '.join(f'{rows} x {columns}' for rows, columns in angles)
    return found


def collect(targets: list[str], tokens: list[int], batch: int, dtype: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of the table; a target that Triton does not compile for has the key 'failed'."""
    exact = dtype == 'fp64'
    tiles = sorted({tuple(block[2:]) for number in tokens for block in angle_relation_triton.row_blocks(number, exact)})
    results = []
    for target in targets:
        try:
            by_tile = {tile: statistics(compile_kernel(target, *tile, dtype), target, *tile, folder) for tile in tiles}
        except Exception as error:  # Compilers and assemblers raise errors of their own.
            results.append({'target': target, 'failed': f'{type(error).__name__}: {str(error).strip()[:200]}'})
            continue
        results += [{'target': target, 'tokens': number, **of_tokens(number, exact, batch, by_tile)} for number in tokens]
        print(f'{target}: compiled', flush=True)
    return results


def collect_tiles(
    targets: list[str], tiles: list[tuple[int, int]], dtype: str, folder: Path, path: Path | None, warps: int
) -> list[dict[str, Any]]:
    """The rows of the table by tile, of the kernel or of that in another file."""
    kernel = None
    if path is not None:
        spec = spec_from_file_location('serkd_mm.ops.other_angle_relation_triton', path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        kernel = module._angle_sums_kernel
    results = []
    for target in targets:
        for rows, columns in tiles:
            name = {'target': target, 'tokens': '-', 'tile': f'{rows} x {columns}', 'real': '-'}
            try:
                compiled = compile_kernel(target, rows, columns, dtype, kernel, warps)
                results.append({**name, **statistics(compiled, target, rows, columns, folder, warps)})
            except Exception as error:  # As in collect().
                results.append({**name, 'failed': f'{type(error).__name__}: {str(error).strip()[:200]}'})
    return results


def table(results: list[dict[str, Any]], batch: int, times: bool = True) -> str:
    """Two Markdown tables: the counts, and the estimated times in float32; a note for each target that was not compiled."""
    found = [one for one in results if 'failed' not in one]
    lines = ['| ' + ' | '.join(HEADINGS) + ' |', '|' + ' --- |' * len(HEADINGS)]
    for one in found:
        cells = [f'{one[name]:.1f}' if isinstance(one[name], float) else str(one[name]) for name in HEADINGS.values()]
        cells[6] = f'{100 * one["occupancy"]:.0f} %'
        lines.append('| ' + ' | '.join(cells) + ' |')
    if times:
        names = ['GPU', 'tokens', 'images', 'estimated time, ms', 'bound by memory, ms', 'bound by arithmetic, ms']
        lines += ['', 'Estimates, not measurements:', '', f'| {" | ".join(names)} |', '|' + ' --- |' * len(names)]
        estimated = [(*pair, one) for pair in DEVICES.items() for one in found if one['target'] == pair[1].target]
        for name, device, one in estimated:
            cells = ' | '.join(f'{milliseconds:.3f}' for milliseconds in estimate(device, one, batch).values())
            lines.append(f'| {name} | {one["tokens"]} | {batch} | {cells} |')
    lines += ['', *(f'Not compiled for {one["target"]}: {one["failed"]}' for one in results if 'failed' in one)]
    return '\n'.join(lines).strip() + '\n'


def _tile(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition('x')
    return int(rows), int(columns)


def main() -> None:
    """Compile, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--targets', nargs='+', choices=TARGETS, default=TARGETS)
    parser.add_argument('--tokens', nargs='+', type=int, default=[49, 64, 196], help='default: 49 64 196')
    parser.add_argument('--batch', type=int, default=128, help='images of the estimated times; default: 128')
    parser.add_argument('--dtype', choices=['fp32', 'fp64'], default='fp32', help='fp64: the form for close tokens')
    parser.add_argument('--tiles', nargs='+', type=_tile, help='tokens j x tokens k of a program, instead of --tokens')
    parser.add_argument('--kernel', type=Path, help='with --tiles: the file of another version of the kernel')
    parser.add_argument('--warps', type=int, default=1, help='with --kernel: its number of warps; default: 1')
    parser.add_argument('--out', type=Path, help='file of the tables (.md), or of the numbers (.json)')
    args = parser.parse_args()
    about = {'triton': triton.__version__, 'dtype': args.dtype, 'date': time.strftime('%Y-%m-%d'), 'estimate': True}
    if digit_version(triton.__version__) < digit_version('3.3'):
        parser.error(
            f'Triton {triton.__version__} cannot compile ahead of time in the way of this tool: install 3.3 or later'
        )
    if not args.tiles and (args.kernel or args.warps != 1):
        parser.error('--kernel and --warps need --tiles')
    with TemporaryDirectory() as folder:
        if args.tiles:
            results = collect_tiles(args.targets, args.tiles, args.dtype, Path(folder), args.kernel, args.warps)
        else:
            results = collect(args.targets, args.tokens, args.batch, args.dtype, Path(folder))
    text = ', '.join(f'{name}: {value}' for name, value in about.items()) + '\n\n'
    text += table(results, args.batch, times=args.dtype == 'fp32' and not args.tiles)
    print(text)
    if args.out:
        numbers = json.dumps({'about': about, 'results': results}, indent=1) + '\n'
        args.out.write_text(numbers if args.out.suffix == '.json' else text)


if __name__ == '__main__':
    main()
