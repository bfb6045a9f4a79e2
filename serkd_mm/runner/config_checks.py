from collections.abc import Mapping

from mmengine.config import Config

from ..config_errors import ConfigError
from .config_names import check_names, check_removals, check_settings
from .config_values import check_values
from .view_checks import check_views


def check_config(config: Config, before: Config, options: Mapping | None, training: bool = True) -> None:
    """Check the names and values of a config that mmengine's Runner would ignore, or report late and without their key.

    Args:
        config: The config of a run.
        before: The same config without the settings of the command line.
        options: The settings of the command line; None if there are none.
        training: Whether the run trains. Otherwise only the names of the top level are checked. Default: True.

    Raises:
        ConfigError: There is no model, a name is not read by a run, a removal removes nothing, a value is unusable, or
            repeatable views do not fit the rest.
    """
    model = config.get('model')
    if not isinstance(model, Mapping) or 'type' not in model:
        raise ConfigError(f'{config.filename} is no config of a run: it has no model=dict(type=...)')
    check_names(config, before)
    if training:
        check_removals(config, before, options)
        check_settings(config)
        check_values(config)
        check_views(config)
