"""`curate run`: from a pool to a submission, by one YAML file."""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jobs import evaluate
from jobs.cli import Parser, Terminated, parsed
from metadata import plain_yaml
from metadata.errors import CurateError, printable, unknown

#: In their order. A stage's options are its command's; `choose` is the main job.
STAGES = ("score", "choose", "train", "evaluate", "submit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file."""
    parser.add_argument("file", metavar="FILE.yaml", help="out: FOLDER, and the stages with their commands' options")


def run(args: argparse.Namespace) -> int:
    """Runs the stages, each as its own command, which does nothing where it is finished; returns the exit code."""
    commands = plan(_read(args.file), args.file)
    for stage, words in commands:
        print(f"curate run: {stage}", file=sys.stderr, flush=True)
        process = subprocess.Popen([sys.executable, "-m", "jobs.cli", *words])
        try:
            code = process.wait()
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):  # else it is Ctrl-C, which the command has from the terminal, too
                process.terminate()
            if not (code := process.wait()):  # it says itself what becomes of its work, unless it was done just then
                raise
        if code:
            return code if code > 0 else 1
        if stage == "train" and _waits(words[1:]):
            print("curate run: the stages after train wait for Slurm. Submit its script, then run this again.",
                  file=sys.stderr, flush=True)  # fmt: skip
            return 0
    return 0


def _waits(words: Sequence[str]) -> bool:
    """Whether a training was handed to Slurm and isn't finished."""
    args = _parsed("train", words)
    return args.slurm and not os.path.exists(os.path.join(args.out, "train.json"))


def _read(path: str) -> Any:
    try:
        text = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise CurateError(f"{printable(path)}: can't be read ({error.strerror}), but it says what to do. Check the "
                          f"path.") from error  # fmt: skip
    return plain_yaml.parse(text, printable(path), "stages and their options are needed as plain YAML")


def plan(given: Any, path: str) -> list[tuple[str, list[str]]]:
    """Each stage's command, after all were parsed: a word that is wrong in the last is said before the first begins.

    Raises:
        CurateError: a stage is unknown or missing, its options are no mapping or not its command's, there is no such
            recipe, task or folder of tasks, or no shards to train on.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("out"), str) or not given["out"].strip("/"):
        raise CurateError(f"{path}: has no `out`, but every stage writes below that folder. Add out: runs/mine.")
    for name in given:
        if name not in (*STAGES, "out"):
            raise unknown("stage", str(name), STAGES, where=path)
    if "choose" not in given:
        raise CurateError(
            f"{path}: has no `choose`, but every other stage goes on from it. Add choose: {{pool: demo}}."
        )
    asked = {stage: _options(given[stage], f"{path}: {stage}") for stage in STAGES if stage in given}
    ties, commands = _ties(given["out"].rstrip("/"), asked), []
    for stage, options in asked.items():
        words = [word for name, value in (ties[stage] | options).items() for word in _words(name, value)]
        try:
            _check(stage, words)
        except CurateError as error:
            raise CurateError(f"{path}: {stage}: {error}") from error
        commands.append((stage, words if stage == "choose" else [stage, *words]))
    if asked["choose"].get("select-only") and "data" not in asked.get("train", {"data": ""}):
        raise CurateError(f"{path}: choose has select-only, so it makes no shards, but train needs some. Leave "
                          f"select-only out, or give train its data, as in train: {{data: shards}}.")  # fmt: skip
    return commands


def _ties(out: str, asked: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options that tie each stage to those before it, which may write elsewhere."""
    names = {"score": "score", "choose": "run", "train": "model", "evaluate": "results.jsonl", "submit": "bundle"}
    at = {stage: str(asked.get(stage, {}).get("out", f"{out}/{name}")) for stage, name in names.items()}
    scored = {"pool": f"{at['score'].rstrip('/')}/metadata/"} if "score" in asked else {}
    return {
        "score": {"out": at["score"]},
        "choose": {**scored, "out": at["choose"]},
        "train": {"data": at["choose"], "out": at["train"]},
        "evaluate": {"model": at["train"], "out": at["evaluate"]},
        "submit": {"run": at["choose"], "train": at["train"], "results": at["evaluate"], "out": at["submit"]},
    }


def _options(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise CurateError(f"{where}: is {printable(given)}, but options by name are needed, as in gpus: 8.")
    for name, value in given.items():
        if value is None:
            raise CurateError(f"{where}: {printable(name)} has no value, but an option has one. Give it, or leave the "
                              f"option out.")  # fmt: skip
    return dict(given)


def _words(name: str, value: Any) -> list[str]:
    """An option on the command line: true is the bare option, false none, a list one for each, a mapping k=v,…."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, Mapping):
        pairs = [f"{key}={'' if of is None else of}" for key, of in value.items()]
        value = pairs if name == "file" else ",".join(pairs)  # which is repeated: a path may have a comma in it
    return [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]


def _check(stage: str, words: Sequence[str]) -> None:
    """Raises CurateError for what the stage's command doesn't take, and for a recipe or evaluation sets not there."""
    args = _parsed(stage, words)
    if stage == "choose":
        from filters import recipes

        recipes.named(args.recipe or recipes.DEFAULT, dict(args.file))
    if stage == "evaluate":
        tasks = evaluate.asked_tasks(args)
        if args.data is not None:  # the Hub may be slow to answer, and has what it has
            from pipeline.evaluate import look, read_results

            look(tasks, args.data, {} if args.overwrite else read_results(args.out))


def _parsed(stage: str, words: Sequence[str]) -> argparse.Namespace:
    """The stage's options, as its command takes them."""
    parser = _Stage(add_help=False)
    importlib.import_module("jobs.main" if stage == "choose" else f"jobs.{stage}").add_arguments(parser)
    return parsed(parser, words)


class _Stage(Parser):
    """A stage's options, which come from a file: what is wrong with them is said without how to call the command."""

    def error(self, message: str) -> NoReturn:
        raise CurateError(message)
