"""Carrying a user's error from a worker to the terminal.

A runner gives the driver a worker's exception as text, wrapped in its own and in tracebacks, each in its own way. So
a CurateError (and an OSError such as a full disk) is marked in the text it raises, and the driver looks for the mark.
"""

import functools
import json
import re
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from metadata.errors import CurateError, printable

P = ParamSpec("P")
R = TypeVar("R")


class MarkedError(RuntimeError):
    """A user's error on its way through a runner."""


def marked(message: str) -> str:
    """`message` so that `sentence` finds it in whatever a runner makes of it."""
    return f"<curate-error {json.dumps(message)} curate-error>"


def told(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with its user errors marked so that `sentence` finds them."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        try:
            return function(*args, **kwargs)
        # From None: a text that is no UTF-8, such as a file's name may be, no runner would carry.
        except CurateError as error:
            raise MarkedError(marked(str(error))) from None
        except OSError as error:
            raise MarkedError(marked(os_sentence(error))) from None
        except MemoryError:
            raise MarkedError(marked(out_of_memory("a worker"))) from None
        except Exception as error:  # a defect, of which the traceback is told: with what was being done
            error.add_note(f"curate: at work on {printable(args[0], 1000)}" if args else "")
            _check_carried("".join(traceback.format_exception(error)))
            raise

    return wrapper


def _check_carried(text: str) -> None:
    """Raises RuntimeError with a traceback's text where it is no UTF-8 as it stands."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RuntimeError(text.encode(errors="backslashreplace").decode()) from None


def sentence(error: BaseException) -> str | None:
    """The user's sentence in what a runner raised, or None where it is a defect of ours.

    Also in what it was raised after: a runner may fail once more when it puts away what has failed.
    """
    found = re.search(r"<curate-error (\".*?\") curate-error>", str(error), re.DOTALL)
    if found is None:
        before = error.__cause__ or error.__context__
        return sentence(before) if before else None
    try:
        return json.loads(found[1])
    except json.JSONDecodeError:  # a runner escaped the text once more
        return printable(found[1], 1000)


#: A line of Java's stack, and Spark's title of one.
_STACK = r"\s+at |Driver stacktrace:"


def outage(error: BaseException) -> str | None:
    """The reason that a runner gives for a job that it lost; None where our own code raised."""
    text = str(error)
    if "Traceback (most recent call last)" in text or not isinstance(error, RuntimeError):
        return None
    # Not what closes a list of Java's, nor where in Java it was.
    words = [line for line in text.splitlines() if re.search(r"[A-Za-z]{3}", line) and not re.match(_STACK, line)]
    return printable(words[-1] if words else type(error).__name__, 300)


def os_sentence(error: OSError) -> str:
    """What to tell a user of an operating system's refusal."""
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        needed = "a folder" if isinstance(error, NotADirectoryError) else "it"
        return f"{where}{error.strerror or error}, but {needed} must be there. Look at the path."
    if isinstance(error, IsADirectoryError):
        return f"{where}{error.strerror or error}, but a file is needed. Look at the path."
    return f"{where}{error.strerror or error}. What is finished is kept: mend this and run the same command again."


def out_of_memory(who: str) -> str:
    """What to tell a user where memory ran out, and Python was told of it."""
    return (f"{who}: memory ran out. What is finished is kept: run the same command again with fewer --workers, or "
            f"where there is more.")  # fmt: skip
