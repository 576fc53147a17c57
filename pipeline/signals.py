"""Ctrl-C and SIGTERM, which ask a process to end, while it forks others."""

import contextlib
import signal
import threading
from collections.abc import Iterator

ENDINGS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Has them come at the end of the block, in which processes are forked.

    Python drops what is raised while a fork's hooks run, such as logging's, and with it the exception that is to end
    the process. And a child would have its parent's handlers until it sets its own. Handlers run in the main thread
    alone, so another one's forks lose nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda late, _: came.append(late)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
