"""Store the outputs of the teacher that a distillation reads, for several augmented views of its images.

    python tools/cache_teacher.py CONFIG [CONFIG ...] --out DIR [--views 10] [--seed 0] [--dtype float16|float32]
        [--tokens pca|full] [--rank 192] [--top-k K] [--batch-size B] [--num-workers W] [--amp]
        [--cfg-options KEY=VALUE ...]
    python tools/cache_teacher.py CONFIG [CONFIG ...] --out DIR --check N

Writes DIR/train.py, or DIR/CONFIG_NAME.py for each of several configs: the same training, which reads DIR instead of
running the teacher. Epoch e trains on view e mod K. The configs must have the same teacher and images. Killed at any moment,
the same command goes on where it was. Flags that are left out are those of the cache in DIR, if there is one.
"""

import argparse
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path

import mmpretrain_tools
import torch
from cache_printing import ProgressReport, duration, gigabytes, print_bases, print_plan, say
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.dist import get_world_size, init_dist, is_main_process
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.utils.dl_utils import set_multi_processing

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_errors import prefix_errors
from serkd_mm.config_files import OptionsAction, read_config
from serkd_mm.distillers.cache_maker import CacheMaker, CacheOptions
from serkd_mm.distillers.cache_sources import CacheSource, build_source, check_same_source
from serkd_mm.distillers.cached_training import config_text, write_config
from serkd_mm.errors import one_line_errors, raise_on_all_ranks
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.hooks.data_errors import innermost_datasets
from serkd_mm.hooks.image_error_hook import ErrorContextPipeline
from serkd_mm.runner import CheckedRunner, check_config
from serkd_mm.runner.view_checks import check_views
from serkd_mm.teacher_cache import CacheError, Manifest, RepeatableViews
from serkd_mm.teacher_cache.cache_writer import missing_bytes, unfinished_shards

WRITTEN = 'Written by tools/cache_teacher.py'
DEFAULTS = {'views': 10, 'seed': 0, 'dtype': 'float16', 'tokens': 'pca', 'rank': 192, 'top_k': None}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='distillation configs')
    parser.add_argument('--out', metavar='DIR', help='folder of the cache')
    parser.add_argument('--views', type=positive, metavar='K', help='augmented views of the images (default: 10)')
    parser.add_argument('--seed', type=not_negative, help='seed of the views (default: 0)')
    parser.add_argument('--dtype', choices=['float16', 'float32'], help='number format (default: float16)')
    parser.add_argument(
        '--tokens',
        choices=['pca', 'full'],
        help='tokens for FeatureL2Loss: int8 coefficients of principal components, or all of them (default: pca)',
    )
    parser.add_argument('--rank', type=positive, metavar='R', help='principal components (default: 192)')
    parser.add_argument('--top-k', type=positive, metavar='K', help='store the K largest logits (default: all)')
    parser.add_argument('--batch-size', type=positive, metavar='B', help="images of a batch (default: the config's)")
    parser.add_argument(
        '--num-workers', type=not_negative, metavar='W', help="processes that read images (default: the config's)"
    )
    parser.add_argument('--amp', action='store_true', help='run the teacher in bfloat16, unless it has a dtype of its own')
    parser.add_argument('--check', type=positive, metavar='N', help='recompute N records of a cache and compare them')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    args = parser.parse_args()
    if args.out is None:
        parser.error('--out DIR is missing')
    for name, default in {**DEFAULTS, **stored_options(args.out)}.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    return args


def stored_options(folder: str) -> dict:
    """What the flags were that made the cache in a folder, so that they need not be repeated; empty without one."""
    if not (Path(folder) / 'manifest.json').is_file():
        return {}
    manifest = Manifest.load(folder)
    formats = [entry.format for entry in manifest.entries]
    ranks = [form['rank'] for form in formats if form['type'] == 'BasisFormat']
    top_k = [form['k'] for form in formats if form['type'] == 'TopKFormat' and form['k'] > 1]
    whole = not ranks and any(entry.content == 'features' for entry in manifest.entries)
    return {
        'views': manifest.num_views,
        'seed': manifest.seed,
        'dtype': manifest.dtype,
        'tokens': 'full' if whole else 'pca',
        'rank': max(ranks, default=DEFAULTS['rank']),
        'top_k': max(top_k, default=None),
    }


def positive(text: str) -> int:
    """Read a whole number, 1 or more."""
    return at_least(1, text)


def not_negative(text: str) -> int:
    """Read a whole number, 0 or more."""
    return at_least(0, text)


def at_least(minimum: int, text: str) -> int:
    """Read a whole number that is large enough."""
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number, {minimum} or more')
    return int(text)


def main() -> None:
    """Make, continue or check a cache."""
    args = parse_args()
    start_processes(args.launcher, read_config(args.configs[0], args.cfg_options))
    MMLogger.get_current_instance().setLevel('WARNING')
    warnings.simplefilter('ignore')
    if not args.check:
        check_targets(args.configs, args.out)
    sources = read_sources(args)
    folder = Path(args.out)
    lock = RunLock(folder / 'run.lock', advice='Two processes would write the same records: choose another --out')
    with raise_on_all_ranks():  # Also before the teacher is loaded.
        if is_main_process():
            lock.refuse_if_held()
    maker = build_maker(args, sources, folder)
    if args.check:
        check(maker, args.check)
        return
    with raise_on_all_ranks():
        if is_main_process():
            lock.acquire(print)
    try:
        make(maker)
        with raise_on_all_ranks():
            if is_main_process():
                write_configs(sources, args.out)
    finally:
        lock.release()


def start_processes(launcher: str, config: Config) -> None:
    """Start the process group, as a Runner does; gloo on a machine without a GPU."""
    settings = Config({'env_cfg': {'dist_cfg': {'backend': 'nccl'}}})
    settings.merge_from_dict({'env_cfg': config.get('env_cfg') or {}})
    if get_device() == 'cpu':
        mmpretrain_tools.run_on_cpu(settings)
    if settings.env_cfg.get('cudnn_benchmark'):
        torch.backends.cudnn.benchmark = True
    set_multi_processing(**settings.env_cfg.get('mp_cfg', {}), distributed=launcher != 'none')
    if launcher != 'none':
        init_dist(launcher, **settings.env_cfg.dist_cfg)
    init_default_scope(config.get('default_scope') or 'mmpretrain')


def read_sources(args: argparse.Namespace) -> list[CacheSource]:
    """Read and check the configs, and build the model of each.

    Raises:
        CacheError: Two have the same name, or cannot share a cache.
    """
    by_name: dict[str, str] = {}
    sources = []
    for path in args.configs:
        name = Path(path).stem
        if name in by_name:
            raise CacheError(f'{by_name[name]} and {path} have the same name, and {args.out}/{name}.py would be of both')
        by_name[name] = path
        config = read_config(path, args.cfg_options)
        check_config(config, read_config(path), args.cfg_options)
        sources.append(build_source(path, name, config, args.out, args.views, args.seed, args.amp))
        with prefix_errors(path):
            check_views(sources[-1].cached)
    check_same_source(sources)
    return sources


def target(config: str, configs: list[str], out: str) -> str:
    """Path of the training from the cache that is written for one of the configs."""
    return f'{out}/{"train" if len(configs) == 1 else Path(config).stem}.py'


def check_targets(configs: list[str], out: str) -> None:
    """Check that no file would be replaced that this tool has not written, such as a config in the folder of the cache.

    Raises:
        CacheError: One would be.
    """
    for config in configs:
        path = Path(target(config, configs, out))
        if path.exists() and not path.read_bytes().startswith(f'# {WRITTEN}'.encode()):
            raise CacheError(f'{path} was not written by this tool, which would replace it. Move it, or use another --out')


def comment(source: CacheSource, out: str) -> str:
    """First line of the config of a training from the cache."""
    return f'{WRITTEN} from {source.path}: reads {out} instead of running the teacher.'


def build_maker(args: argparse.Namespace, sources: list[CacheSource], folder: Path) -> CacheMaker:
    """Build the views of the images and the teacher."""
    loader = sources[0].config.train_dataloader
    views = dict(sources[0].cached.train_dataloader.dataset)
    dataset = build_views({name: value for name, value in views.items() if name != 'cache'})
    batch_size = args.batch_size or loader.get('batch_size', 1)
    if args.batch_size is None:
        batch_size += batch_size % dataset.group_size
    num_workers = loader.get('num_workers', 0) if args.num_workers is None else args.num_workers
    options = CacheOptions(args.views, args.seed, args.dtype, args.tokens == 'full', args.rank, args.top_k)
    return CacheMaker(folder, sources, options, dataset, torch.device(get_device()), batch_size, num_workers)


def build_views(config: dict) -> RepeatableViews:
    """Build the data set; its errors name the file."""
    sampler = {'type': 'ViewSampler', 'shuffle': False}
    dataset = CheckedRunner.build_dataloader({'dataset': config, 'sampler': sampler, 'batch_size': 1}, seed=0).dataset
    for part in innermost_datasets(dataset):
        if type(getattr(part, 'pipeline', None)) is Compose:
            part.pipeline = ErrorContextPipeline(part.pipeline)
    return dataset


def make(maker: CacheMaker) -> None:
    """Make the cache, or go on with one that was begun.

    Raises:
        CacheError: The folder holds another cache, or the disk is too small.
    """
    with raise_on_all_ranks():
        present = maker.manifest(get_world_size())
        stored = maker.stored_manifest(present)
    manifest = stored or present
    missing, free = missing_bytes(maker.folder, manifest), free_bytes(maker.folder)
    if is_main_process():
        print_plan(maker, manifest, free)
    if stored is not None and stored.complete and not unfinished_shards(maker.folder, stored):
        print_bases(stored)
        say(f'{maker.folder} is complete')
        return
    with raise_on_all_ranks():
        if missing > free:
            raise CacheError(
                f'{maker.folder}: {gigabytes(missing)} are to be written, and the disk has {gigabytes(free)} left. Make '
                'room, or use fewer --views, --top-k, or another --out'
            )
    num_images = -(-missing // manifest.record_bytes)
    seconds = maker.seconds_per_image() * num_images / get_world_size()
    say(f'{num_images:,} images are missing: about {duration(seconds)}, if they are read as fast as the teacher runs')
    if stored is None:
        manifest = maker.create(present)
    print_bases(manifest)
    start = time.perf_counter()
    with ProgressReport() as progress:
        maker.fill(manifest, progress.report)
    say(f'{maker.folder} is complete: {num_images:,} images in {duration(time.perf_counter() - start)}')


def free_bytes(folder: Path) -> int:
    """Bytes that the disk of a folder has left; the folder exists, because it is locked."""
    return shutil.disk_usage(folder).free


def write_configs(sources: list[CacheSource], out: str) -> None:
    """Write the trainings that read the cache, and print how to start them.

    Raises:
        CacheError: A config would be replaced that was edited since it was written, or was written for another training.
    """
    for source in sources:
        path = target(source.path, [source.path for source in sources], out)
        text = config_text(source.cached, comment(source, out))
        if Path(path).exists() and Path(path).read_text(encoding='utf-8') != text:
            raise CacheError(
                f'The cache is complete. {path} was edited, or was written for another config or with other flags, and '
                f"would be replaced: move it. For other settings, write a child config with _base_ = '{path}'"
            )
        write_config(source.cached, path, comment(source, out))
        shown = shlex.quote(path)
        print(f'python tools/train.py {shown}  # or: tools/dist_train.sh {shown} GPUS')


def check(maker: CacheMaker, count: int) -> None:
    """Recompute records and compare them with those of the cache; exit with 1 if one is another.

    Raises:
        CacheError: There is no complete cache, or it is another one.
    """
    with raise_on_all_ranks():
        stored = maker.stored_manifest(maker.manifest(get_world_size()), complete=True)
    result = maker.check(count)
    for entry, largest, tolerance in zip(stored.entries, result.largest, result.tolerances, strict=True):
        say(f'{entry.content} of {entry.tap}: largest relative difference {largest:.2g} (rounding explains {tolerance:g})')
    if result.problems:
        shown = result.problems[:20] + ([f'and {len(result.problems) - 20} more'] if len(result.problems) > 20 else [])
        raise CacheError(f'{len(result.problems)} of {result.num_records} records are others: ' + '; '.join(shown))
    say(f'{result.num_records} records of {maker.folder} were recomputed: their images are the same')


if __name__ == '__main__':
    with one_line_errors():
        try:
            main()
        except KeyboardInterrupt:
            print('interrupted: the same command goes on where it was', file=sys.stderr)
            raise SystemExit(130) from None
        mmpretrain_tools.end_process_group()
