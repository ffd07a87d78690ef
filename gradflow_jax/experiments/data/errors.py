"""The errors of experiments: each message is a line for whoever typed the command."""


class DataError(ValueError):
    """Data that cannot be read; the message is for whoever named them."""


class SettingsError(ValueError):
    """Settings that cannot be met; the message is for whoever chose them."""


class FolderError(ValueError):
    """A folder that this run cannot use; the message says why and what to do."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and what to do."""
