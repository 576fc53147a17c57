"""Ctrl-C and SIGTERM, which ask a process to end, while it forks others."""

import contextlib
import signal
from collections.abc import Iterator

ENDINGS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Has them come at the end of the block, in which processes are forked; for the main thread.

    Python drops what is raised while a fork's hooks run, such as logging's, and with it the exception that is to end
    the process. And a child would have its parent's handlers until it sets its own.
    """
    came: list[int] = []
    before = {number: signal.signal(number, lambda late, _: came.append(late)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
