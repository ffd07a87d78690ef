"""Calls a function with hostile input, and judges what comes of it."""

import contextlib
import dis
import inspect
import re
import resource
import signal
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax

import gradflow_jax

PACKAGE = str(Path(gradflow_jax.__file__).parent)
HERE = str(Path(__file__).parent)
# Of the processor: how much else the machine does is no matter.
SECONDS = 5.0
# What Python says of a user's function that is called with too few or too many.
_OF_ARGUMENTS = re.compile(r"(loss|loss_of_batch|model|init)\(\) (missing|takes|got) ")
BYTES = 2**30


class TookTooLong(BaseException):
    """Nothing catches it by accident, as it might catch an Exception."""


class Finding(NamedTuple):
    """What is wrong with the answer to an input.

    Attributes:
        what: the kind of an exception and what it says, or what was used up.
        where: the innermost frame, and the innermost of the library.
    """

    what: str
    where: str


def judge(call, function):
    """Returns a `Finding`, or None if the answer is a result or an error of ours.

    Args:
        call: takes nothing; calls the function with its input.
        function: whose docstring says which errors it raises beside TypeError and
            ValueError.
    """
    before, start = _peak(), time.process_time()
    try:
        with _within(SECONDS), _memory_to_spare(), warnings.catch_warnings():
            # Those of the library are of this kind; what NumPy and JAX warn of is not.
            warnings.simplefilter("ignore", UserWarning)
            # NumPy says so where a number beyond float32 becomes inf, which it stays.
            warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
            # JAX says so of generators, before the library says what it thinks of them.
            warnings.filterwarnings(
                "ignore", "Python iterable type", DeprecationWarning
            )
            call()
    except (Exception, TookTooLong) as error:
        frames = list(_frames(error))
        if not _is_right(error, frames, function):
            text = f"{type(error).__name__}: {str(error)[:200]}"
            return Finding(text, " in ".join(_place(frame) for frame in _last(frames)))
    if _peak() - before > BYTES:
        return Finding(f"took {(_peak() - before) / 2**30:.1f} GiB", "")
    if time.process_time() - start > SECONDS:
        return Finding(f"took {time.process_time() - start:.1f} s", "")
    return None


def _frames(error):
    """Yields the frames of an error's traceback, the innermost last."""
    frame = error.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next


def _file(frame):
    return frame.tb_frame.f_code.co_filename


def _is_ours(frame):
    return _file(frame).startswith(PACKAGE)


def _is_right(error, frames, function):
    """Says whether an error is one that the user is meant to see."""
    if isinstance(error, TookTooLong):
        return False
    innermost = frames[-1]
    if _is_ours(innermost) and _OF_ARGUMENTS.match(str(error)):
        return isinstance(error, TypeError)
    if isinstance(error, OSError):
        # What the system says names the path, whoever asked it.
        return _is_promised(error, function)
    if _is_ours(innermost):
        return _is_raised(innermost) and _is_promised(error, function)
    if _file(innermost).startswith(HERE) and not any(map(_is_ours, frames)):
        # Python's own, of a call with too few arguments, or of what is no function.
        return isinstance(error, TypeError)
    # Users see what their own function raises, itself or by what it called.
    mixed = [
        frame
        for frame in frames
        if HERE in _file(frame) or _is_ours(frame) and not _hands_on(frame)
    ]
    return any(map(_is_ours, frames)) and not _is_ours(mixed[-1])


def _hands_on(frame):
    """Says whether a frame is one through which Flax calls a layer of the user's."""
    return frame.tb_frame.f_code.co_qualname == "_measuring.<locals>.intercept"


def _is_raised(frame):
    """Says whether a frame ends in a `raise`, and not in what a `raise` computes."""
    code = frame.tb_frame.f_code
    return dis.opname[code.co_code[frame.tb_lasti]] == "RAISE_VARARGS"


def _is_promised(error, function):
    kinds = (TypeError, ValueError)
    doc = inspect.getdoc(function) or ""
    is_documented = any(f"  {kind.__name__}:" in doc for kind in type(error).__mro__)
    return isinstance(error, kinds) or is_documented


def _last(frames):
    """Returns the innermost frame and, if it is another, the innermost of ours."""
    ours = [frame for frame in frames if _is_ours(frame)]
    return dict.fromkeys([frames[-1], *ours[-1:]])


def _place(frame):
    name = _file(frame).removeprefix(PACKAGE + "/").split("site-packages/")[-1]
    return f"{name}:{frame.tb_lineno}"


def _peak():
    """Returns the bytes that the process held at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _within(seconds):
    def stop(number, frame):
        raise TookTooLong(f"still running after {seconds} s")

    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)


@contextlib.contextmanager
def _memory_to_spare():
    """Makes what would fill the machine's memory a MemoryError.

    XLA reserves address space that it does not use, so there is some to spare.
    """
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS,
        (pages * resource.getpagesize() + 8 * BYTES, limits[1]),
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextlib.contextmanager
def whole_tracebacks():
    """Has JAX leave its own frames in tracebacks, among which the innermost may be."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)
