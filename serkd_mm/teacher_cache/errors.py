from ..errors import UserError


class CacheError(UserError, ValueError):
    """A teacher cache, or the data that it was made from, cannot be used. The message names the file or the setting."""
