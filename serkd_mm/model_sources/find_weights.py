"""The file of weights that a setting ``checkpoint`` names."""

from typing import Any

from ..config_errors import ConfigError, check_file, prefix_errors
from ..fileio.urls import check_url, is_url, reveal
from .hub_file import HubFile
from .model_source import ModelSource
from .weights_file import WeightsFile, published_hash


def find_weights(checkpoint: Any, source: ModelSource, exists: bool, key: str) -> WeightsFile | HubFile | None:
    """Return the file of the weights, without reading it.

    Args:
        checkpoint: A path, a URL, or True for the publisher's weights.
        source: The model that they belong to.
        exists: Whether a path must be that of a file.
        key: Config key of ``checkpoint``, for messages.

    Returns:
        The file; None if no checkpoint is set.

    Raises:
        ConfigError: The setting is wrong, or the publisher has no weights.
    """
    if checkpoint in (None, False, ''):
        return None
    if checkpoint is True:
        return source.published_weights(key)
    if not isinstance(checkpoint, str):
        raise ConfigError(f'{key} must be a path, a URL or True, but is {checkpoint!r}')
    checkpoint = reveal(checkpoint)
    if not is_url(checkpoint):
        if exists:
            check_file(checkpoint, key)
        return WeightsFile(checkpoint)
    with prefix_errors(key):
        check_url(checkpoint)
    return WeightsFile(checkpoint, published_hash(checkpoint, in_zoo=checkpoint == source.weights))
