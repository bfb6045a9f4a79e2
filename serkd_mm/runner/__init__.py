"""The runner of the tools, and what checks a config before it is built."""

from .checked_runner import CheckedRunner
from .config_names import check_names, check_removals, check_settings
from .config_values import check_values

__all__ = ['CheckedRunner', 'check_names', 'check_removals', 'check_settings', 'check_values']
