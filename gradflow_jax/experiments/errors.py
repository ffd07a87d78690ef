"""The errors of experiments: each message is a line for whoever typed the command."""


def in_one_line(text: str) -> str:
    r"""Returns text with the signs that no line has as Python writes them.

    Example:
        >>> print(in_one_line("two\nlines"))
        two\nlines
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class _OneLineError(ValueError):
    """An error whose message is one line that any terminal shows as it is.

    Messages name files, and whoever made the files chose the names: a line break, an
    escape sequence or a byte that is no text is written as Python writes it.
    """

    def __init__(self, message: str):
        super().__init__(in_one_line(message))


class DataError(_OneLineError):
    """Data that cannot be read; the message is for whoever named them."""


class SettingsError(_OneLineError):
    """Settings that cannot be met; the message is for whoever chose them."""


class FolderError(_OneLineError):
    """A folder that this run cannot use; the message says why and what to do."""


class CheckpointError(_OneLineError):
    """A checkpoint that cannot be used; the message says which and what to do."""


def abridge(text: object, length: int = 60) -> str:
    """Returns how messages show what a file says: never more than a part of a line.

    Args:
        text: what `str` turns to text.
        length: the most characters that are shown.

    Example:
        >>> abridge("a long name", 6)
        'a long…'
    """
    shown = str(text)
    return shown if len(shown) <= length else shown[:length] + "…"


def reason_of(error: Exception) -> str:
    """Returns what another library says of a damaged file, as a part of a line."""
    said = " ".join(str(error).split()).rstrip(".")
    return abridge(said, 200) or type(error).__name__
