"""Reading the logs of finished and interrupted runs, and measuring superpixels."""

from .run_log import RunLog

__all__ = ['RunLog']
