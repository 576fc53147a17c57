"""The `curate` command."""

import argparse
import atexit
import contextlib
import difflib
import importlib
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from importlib.util import LazyLoader
from typing import cast

from metadata.errors import CurateError, printable

#: Subcommands: what each does, for the help. The module jobs.NAME has add_arguments(parser) and run(args) -> exit code.
COMMANDS = {
    "recipes": "list the recipes, with their source and the rows they keep",
    "compare": "how finished runs differ: rows, overlaps, steps, captions, scores, sizes and words",
    "plan": "what a run would give and cost, told by a few files of its pool and some images",
    "retry": "fetch again the images that failed so, and rewrite only the shards this changes",
    "metadata": "build and describe the entry lists that balancing matches",
    "reshard": "copy a subset's samples out of shards that are already downloaded",
    "centroids": "cluster a pool's features, for the steps that compare rows by clusters",
    "score": "a model's scores and features of a pool's images and captions, beside the pool's own columns",
    "targets": "features of the images in a folder or in shards, for the steps that compare rows with them",
    "train": "train a CLIP model on the shards of runs, as DataComp does",
    "evaluate": "a model's scores on DataComp's 38 tasks, or on your own",
    "submit": "bundle a run, its model and its results as a submission to DataComp, and send it to the Hub",
    "run": "from a pool to a submission, stage by stage, by one YAML file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; its exit code: 0 done, 1 an error that the user can mend, 2 a wrong command."""
    try:
        with _written():
            return _command(list(sys.argv[1:] if argv is None else argv))
    except CurateError as error:
        return _refused(str(error))
    except BrokenPipeError:  # the reader of what is printed in the end, such as `head`, has seen enough
        return 0
    except OSError as error:  # a full disk, a store that is gone
        from pipeline.failures import os_sentence

        return _refused(os_sentence(error))
    except MemoryError:
        from pipeline.failures import out_of_memory

        return _refused(out_of_memory("this process"))


def _command(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return _subcommand(argv[0], argv[1:])
    if argv and not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(
            f"curate: unknown command {argv[0]!r}.{hint} Known: {', '.join(COMMANDS)}; without one the main job "
            f"runs (curate --pool …).",
            file=sys.stderr,
        )
        return 2
    from jobs import main as job

    return job.run(argv)


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Writes all that the block has printed before it ends: at Python's exit nobody can handle a full disk any more.

    What can't be written is dropped, or it would be tried again there. How the block itself has failed is told first.
    """
    failed = True
    try:
        yield
        failed = False
    except SystemExit as ended:  # of a parser, which has printed help or an error
        failed = bool(ended.code)
        raise
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not failed:
                raise


def _refused(sentence: str) -> int:
    """Tells why the command ends, which may name what a pool's owner has named, and gives its exit code."""
    lines = [printable(line, _LONGEST) for line in sentence.split("\n")]
    print("curate: " + "\n".join(lines), file=sys.stderr)
    return 1


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what a cluster, or the system when it shuts down, sends to have a process end."""


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who sends it to all processes may have others that hand it on
    raise Terminated


#: Characters of a line of an error: none of ours has as many.
_LONGEST = 10_000

#: Beam and pyarrow import these wherever they are installed, half a second and 50 MB in every process, and nothing here
#: uses them: pandas, and with bson all of MongoDB's client.
_UNUSED = {"pandas", "bson"}

#: These Beam imports for Google's cloud; they are read when something looks into them.
_SELDOM_USED = {"httplib2", "requests"}


class _WithoutUnused(PathFinder):
    """Python's own finder, to which the unused isn't installed; it raises nothing, as torch asks which packages are."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = None if fullname in _UNUSED else super().find_spec(fullname, path, target)
        if fullname in _SELDOM_USED and spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


class _Unheard(io.TextIOWrapper):
    """Standard error, whose reader may go away: work goes on without it."""

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            super().flush()


def entry() -> None:
    """The console script: `main`."""
    signal.signal(signal.SIGTERM, _terminate)
    as_command(lambda: stoppable("curate", main))


def stoppable(name: str, work: Callable[[], int]) -> int:
    """Does `work` in a process that is its own, and gives its exit code: 130 after Ctrl-C, 143 after SIGTERM.

    Then it says how to go on, and nothing is heard any more: neither a second Ctrl-C nor what threads think of the end.
    """
    try:
        return work()
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only disturb what ends now
        # Beam's threads lose their connections now, and each would print or log what it thinks of that.
        threading.excepthook = lambda _: None
        logging.disable()
        print(f"\n{name}: stopped. What is finished is kept: run the same command again to go on.", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130


def as_command(work: Callable[[], int]) -> None:
    """Does `work` in a process that is its own, and leaves with the code it gives as soon as Python has cleaned up.

    What nothing here uses is as if it weren't installed, see `_UNUSED`.

    Threads of C++ libraries that Beam brings are still winding up when a job is done, and now and then one makes the
    process abort on its way out ("terminate called without an active exception"), after everything was written. So
    the last thing that Python does at its exit is to leave without asking them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed from the start
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    out, err = cast(io.TextIOWrapper, sys.stdout), cast(io.TextIOWrapper, sys.stderr)
    out.reconfigure(errors="backslashreplace")  # not every terminal has every character
    encoding = err.encoding
    sys.stderr = _Unheard(err.detach(), encoding, errors="backslashreplace", line_buffering=True)
    sys.meta_path = [_WithoutUnused if finder is PathFinder else finder for finder in sys.meta_path]
    code: int | str | None = 1

    @atexit.register  # what is registered first runs last
    def leave() -> None:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code if isinstance(code, int) else 1)

    try:
        code = work()
    except SystemExit as wanted:
        code = wanted.code or 0
    except Exception:
        traceback.print_exc()


def _subcommand(name: str, argv: Sequence[str]) -> int:
    module = importlib.import_module(f"jobs.{name}")
    summary = COMMANDS[name]
    parser = Parser(prog=f"curate {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    module.add_arguments(parser)
    return module.run(parsed(parser, argv))


def parsed(parser: "Parser", argv: Sequence[str]) -> argparse.Namespace:
    """The command's options; where it has a --runner, what is left over are Beam's own, as `beam_options`."""
    args, rest = parser.parse_known_args(argv)
    if rest and "runner" not in args:
        parser.refuse(rest)
    if "runner" in args:
        args.beam_options = rest
        if rest:
            from jobs import engines

            engines.check_beam_options(rest, args.runner, parser)
    return args


def add_columns_argument(parser: argparse._ActionsContainer) -> None:
    """What a pool calls our columns."""
    parser.add_argument(
        "--columns",
        metavar="OURS=THEIRS,…",
        type=_columns,
        default={},
        help="the pool's own names for our columns, as in url=URL,text=TEXT; uid= makes uids from url and text",
    )


def _columns(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(ours and sign for ours, sign, _ in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is given, but OURS=THEIRS pairs with commas between are needed, as in url=URL,text=TEXT"
        )
    columns: dict[str, str] = {}
    for ours, theirs in ((ours.strip(), theirs.strip()) for ours, _, theirs in pairs):
        if ours in columns:
            raise argparse.ArgumentTypeError(
                f"{ours!r} is given twice ({columns[ours]}, {theirs}), but a column of ours is one of theirs"
            )
        columns[ours] = theirs
    return columns


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model encodes, for `pipeline.models.open_model`."""
    parser.add_argument(
        "--model",
        metavar="NAME|FILE.json|FOLDER",
        required=True,
        help="of open_clip, or a model's config, or what `curate train` left",
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG|FILE",
        help="its weights, as open_clip names them, or a checkpoint (a folder of `curate train` has its own)",
    )


def folder(text: str) -> str:
    """The type of an option that is a folder: its path or address without slashes at the end, but for / and s3://."""
    if not text:
        raise argparse.ArgumentTypeError("'' is given, but a folder's path or address is needed")
    return re.sub("(?<=[^/:])/+$", "", text)


def positive(text: str) -> int:
    """The type of an option that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a whole number above 0 is needed")
    return int(text)


def port_number(text: str) -> int:
    """The type of an option that is a port."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"the port {text!r} is given, but a whole number from 1 to 65535 is needed")
    return int(text)


class Version(argparse.Action):
    """Prints the installed version and ends; what finds it is imported only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show it and exit")

    def __call__(self, parser, *_) -> None:
        import importlib.metadata

        print(f"curate {importlib.metadata.version('clip-curate')}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, and with the nearest match for an unknown option."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def _print_message(self, message, file=None):
        """As argparse's, which passes over a full disk, also where that is asked for."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def parse_args(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        self.refuse(rest)
        return found

    def refuse(self, rest: Sequence[str], also_known: Sequence[str] = ()) -> None:
        """Ends with exit code 2 where anything is left over."""
        for word in rest:
            known = [*(o for action in self._actions for o in action.option_strings), *also_known]
            typed = word.split("=")[0]
            longer = [option for option in known if len(typed) > 2 and option.startswith(typed)]
            near = longer or difflib.get_close_matches(typed, known, n=1) if word.startswith("-") else []
            hint = f" Did you mean {near[0]}?" if near else ""
            self.error(f"unknown {'option' if word.startswith('-') else 'argument'} {word!r}.{hint}")


class Action(Parser):
    """The parser of one of the things that a command does, such as `build` of `curate metadata build`.

    It looks for the nearest match of an unknown option among its own, not those of the command above it.
    """

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        self.refuse(rest)
        return found, rest


if __name__ == "__main__":
    import jobs.cli  # the one that others import, whose Terminated they know

    jobs.cli.entry()
