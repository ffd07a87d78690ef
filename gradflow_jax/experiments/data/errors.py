"""The error of data that cannot be read."""


class DataError(ValueError):
    """Data that cannot be read; the message is for whoever named them."""
