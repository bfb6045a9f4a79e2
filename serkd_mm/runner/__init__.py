"""The runner of the tools, and what checks a config before it is built."""

from .checked_runner import CheckedRunner
from .config_checks import check_config

__all__ = ['CheckedRunner', 'check_config']
