"""Reading the logs of finished and interrupted runs."""

from .run_log import RunLog

__all__ = ['RunLog']
