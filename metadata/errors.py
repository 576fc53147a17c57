"""The one exception that users see, and how its sentences are made."""

import difflib
from collections.abc import Iterable


class CurateError(Exception):
    """Something the user can mend: bad input, a full disk, an unreachable store.

    Its message is shown alone, without a traceback, and reads
    `<where>: <what was given>, but <what is needed>. <What to do.>`
    """


def unknown(kind: str, given: str, known: Iterable[str], where: str = "") -> CurateError:
    """The error for a name that is not in a closed list, with the nearest match where there is one.

    >>> str(unknown("scale", "smal", ["small", "medium"]))
    "unknown scale 'smal'. Did you mean 'small'? Known: small, medium."
    """
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f"{where}: " if where else ""
    return CurateError(f"{place}unknown {kind} {printable(given)!r}.{hint} Known: {', '.join(known)}.")


def printable(text: object, limit: int = 120) -> str:
    """`text` made safe for a terminal: control characters escaped, at most `limit` characters.

    Everything from a pool is hostile; an escape sequence in a caption must not reach a user's terminal.
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def reason(error: BaseException) -> str:
    """What an exception says, in one line that is safe for a terminal; the name of its type where it says nothing."""
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))
