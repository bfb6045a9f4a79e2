"""Names in a config that no part of a run reads: without these checks they are ignored, or fail after minutes."""

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from torch.utils.data import DataLoader

from ..config_errors import ConfigError, suggest

# What mmengine and mmpretrain read from a config besides the arguments of a Runner, and usual names of variables.
_MORE_KEYS = [
    'activation_checkpointing',
    'base_batch_size',
    'bgr_mean',
    'bgr_std',
    'compile',
    'custom_imports',
    'data_root',
    'dataset',
    'dataset_type',
    'detect_anomalous_params',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'test_pipeline',
    'train_pipeline',
    'tta_model',
    'tta_pipeline',
    'val_pipeline',
    'vis_backends',
]
_RUN_KEYS = [*inspect.signature(Runner.__init__).parameters, *_MORE_KEYS]
_REMOVABLE_LOSSES = ['loss_cls']  # The student's task loss, which no config lists.
_RUNNER_HOOKS = ['checkpoint', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer']
_OF_EVERY_DICT = ['type', '_scope_', '_delete_']
_LOADER_KEYS = [
    *inspect.signature(DataLoader.__init__).parameters,
    *('num_batch_per_epoch', 'disable_subprocess_warning', 'persistent_workers'),
]


def check_names(config: Config, before: Config) -> None:
    """Check the top level of a config.

    Args:
        config: The config of a run.
        before: The config without the settings of the command line.

    Raises:
        ConfigError: A name is not read by a run, and is almost that of a setting; variables that the config uses are not
            reported.
    """
    for name, value in config.items():
        if name in _RUN_KEYS or name.startswith('_'):
            continue
        uses = 0 if name not in before else len(re.findall(rf'\b{re.escape(name)}\b', config.text))
        if name not in before:  # From the command line, where a variable would have no effect.
            near = difflib.get_close_matches(name, _RUN_KEYS, n=1)
        else:
            near = [key for key in _RUN_KEYS if _is_typo(name, key) and _same_kind(value, config.get(key, value))]
        if near and uses <= 1:
            raise ConfigError(
                f'{name} is not a setting of a run and would be ignored. Did you mean {near[0]!r}? Rename it if it is '
                'a variable'
            )


def check_settings(config: Config) -> None:
    """Check the names in the parts of a config that mmengine's Runner reads.

    Raises:
        ConfigError: A setting or a type does not exist; the message names the nearest valid ones.
    """
    loop = config.get('train_cfg')
    if isinstance(loop, Mapping):
        default = 'EpochBasedTrainLoop' if loop.get('by_epoch', True) else 'IterBasedTrainLoop'
        _check_part(loop, 'train_cfg', LOOPS, default, ['by_epoch'])
    for key, default in (('val_cfg', 'ValLoop'), ('test_cfg', 'TestLoop')):
        _check_part(config.get(key), key, LOOPS, default)
    wrapper = config.get('optim_wrapper')
    if isinstance(wrapper, Mapping) and 'constructor' not in wrapper:
        _check_part(wrapper, 'optim_wrapper', OPTIM_WRAPPERS, 'OptimWrapper', ['optimizer', 'paramwise_cfg'])
        _check_part(wrapper.get('optimizer'), 'optim_wrapper.optimizer', OPTIMIZERS)
    for key, part in _listed(config.get('param_scheduler'), 'param_scheduler'):
        _check_part(part, key, PARAM_SCHEDULERS, None, ['convert_to_iter_based', 'epoch_length'])
    for key, part in _listed(config.get('custom_hooks'), 'custom_hooks'):
        _check_part(part, key, HOOKS, None, ['priority'])
    hooks = config.get('default_hooks')
    for name, part in hooks.items() if isinstance(hooks, Mapping) else ():
        if isinstance(part, Mapping) and 'type' not in part:
            names = {*_RUNNER_HOOKS, *(other for other, hook in hooks.items() if 'type' in (hook or ()))}
            raise ConfigError(
                f"default_hooks.{name} has no 'type', so it neither changes a hook of the base config nor adds one. "
                f'{suggest(name, names)}'
            )
        _check_part(part, f'default_hooks.{name}', HOOKS, None, ['priority'])
    for split in ('train', 'val', 'test'):
        _report_unknown(config.get(f'{split}_dataloader'), _LOADER_KEYS, f'{split}_dataloader')
    _report_unknown(config.get('randomness'), inspect.signature(Runner.set_randomness).parameters, 'randomness')
    _report_unknown(config.get('auto_scale_lr'), ['enable', 'base_batch_size'], 'auto_scale_lr')


def check_removals(config: Config, before: Config, options: Mapping | None = None) -> None:
    """Check that every ``NAME=None`` in the losses, views, teachers and default hooks removes something.

    Args:
        config: The config of a run.
        before: The config without the settings of the command line.
        options: The settings of the command line. Default: None.

    Raises:
        ConfigError: A name that is removed does not exist.
    """
    for path in ('model.losses', 'model.views', 'model.teachers', 'default_hooks'):
        own = {'default_hooks': _RUNNER_HOOKS, 'model.losses': _REMOVABLE_LOSSES}.get(path, [])
        entries = _get(config, path)
        for name in [name for name, value in entries.items() if value is None and name not in own]:
            given = f'{path}.{name}' in (options or ())
            sources = [before] if given else [Config.fromfile(base) for base in _base_files(config.filename)]
            if sources and not any(name in _get(source, path) for source in sources):
                rest = [other for other, value in entries.items() if value is not None]
                raise ConfigError(f'{path}.{name}=None removes nothing: there is no such entry. {suggest(name, rest)}')


def _check_part(part: Any, key: str, registry: Registry, default: str | None = None, more: Collection[str] = ()) -> None:
    """Check the type and the names of the settings of a part that a registry builds."""
    if not isinstance(part, Mapping) or (default is None and 'type' not in part):
        return
    kind = part.get('type', default)
    cls = registry.get(kind) if isinstance(kind, str) else kind
    if cls is None and '.' not in kind:
        names = {*registry.module_dict, *(registry.parent.module_dict if registry.parent else ())}
        raise ConfigError(f'{key}.type={kind!r} is not registered. {suggest(kind, names)}')
    if not inspect.isclass(cls):
        return
    names: set[str] = {*more}
    for owner in cls.__mro__:
        if '__init__' in vars(owner):
            parameters = inspect.signature(owner.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    _report_unknown(part, names, key, exact=owner is not object)


def _report_unknown(part: Any, names: Collection[str], key: str, exact: bool = True) -> None:
    """Report settings that are not among ``names`` or, with ``exact=False``, those that are almost one of them."""
    names = [name for name in (*names, *_OF_EVERY_DICT) if name != 'self']
    for name in part if isinstance(part, Mapping) else ():
        if name not in names and (exact or any(_is_typo(name, valid) for valid in names)):
            raise ConfigError(f'{key}.{name} is not a setting. {suggest(name, names)}')


def _is_typo(name: str, valid: str) -> bool:
    """Whether two names differ by one or, if they are long, two edits; a swap of two letters is one edit."""
    limit = 1 if len(valid) < 7 else 2
    return abs(len(name) - len(valid)) <= limit and _edits(name, valid) <= limit


def _edits(one: str, two: str) -> int:
    """Insertions, removals, replacements and swaps of neighboring letters from one name to the other."""
    before: list[int] = []
    last = list(range(len(two) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, other in enumerate(two, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == two[j - 2] and one[i - 2] == other:
                row[-1] = min(row[-1], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


def _same_kind(value: Any, other: Any) -> bool:
    """Whether both values are dicts, both are lists, or neither is one."""
    return all(isinstance(value, kind) == isinstance(other, kind) for kind in (Mapping, (list, tuple)))


def _listed(parts: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(parts, (list, tuple)):
        yield from ((f'{key}[{index}]', part) for index, part in enumerate(parts))
    else:
        yield key, parts


def _get(config: Config | Mapping, path: str) -> Mapping:
    """The dict at a path; an empty one if there is none."""
    for name in path.split('.'):
        config = config.get(name) if isinstance(config, (Config, Mapping)) else None
    return config if isinstance(config, Mapping) else {}


def _base_files(filename: str | None) -> list[str]:
    """The files that a config inherits from."""
    if not filename or not filename.endswith('.py'):
        return []
    try:
        names = Config._get_base_files(filename)
        return [str(Config._get_cfg_path(name, filename)[0]) for name in names]
    except Exception:  # Where mmengine changes these helpers, removals in files are not checked.
        return []
