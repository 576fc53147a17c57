"""`curate run`: from a pool to a submission, by one YAML file."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from jobs.cli import Parser
from metadata.errors import CurateError, printable, reason, unknown

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
        except KeyboardInterrupt:  # the command has it too, and says what becomes of its work
            return process.wait() or 130
        if code:
            return code if code > 0 else 1
    return 0


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise CurateError(f"{printable(path)}: can't be read as YAML ({reason(error)}), but stages and their options "
                          f"are needed. Look at the file.") from error  # fmt: skip


def plan(given: Any, path: str) -> list[tuple[str, list[str]]]:
    """Each stage's command, after all were parsed: a word that is wrong in the last is said before the first begins.

    Raises:
        CurateError: a stage is unknown or missing, or its options are no mapping.
        SystemExit: 2, where a command doesn't take its options.
    """
    if not isinstance(given, Mapping) or not (isinstance(given.get("out"), str) and given["out"]):
        raise CurateError(f"{path}: has no `out`, but every stage writes below that folder. Add out: runs/mine.")
    for name in given:
        if name not in (*STAGES, "out"):
            raise unknown("stage", str(name), STAGES, where=path)
    if "choose" not in given:
        raise CurateError(
            f"{path}: has no `choose`, but every other stage goes on from it. Add choose: {{pool: demo}}."
        )
    commands = []
    for stage in STAGES:
        if stage in given:
            options = _defaults(stage, given) | _options(given[stage], f"{path}: {stage}")
            words = [word for name, value in options.items() for word in _words(name, value)]
            _parser(stage).parse_args(words)
            commands.append((stage, words if stage == "choose" else [stage, *words]))
    return commands


def _defaults(stage: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """How a stage is tied to those before it."""
    out = given["out"].rstrip("/")
    scored = {"pool": f"{out}/score/metadata/"} if "score" in given else {}
    ties: dict[str, dict[str, Any]] = {
        "score": {"out": f"{out}/score"},
        "choose": {**scored, "out": f"{out}/run"},
        "train": {"data": f"{out}/run", "out": f"{out}/model"},
        "evaluate": {"model": f"{out}/model", "out": f"{out}/results.jsonl"},
        "submit": {"run": f"{out}/run", "train": f"{out}/model", "results": f"{out}/results.jsonl",
                   "out": f"{out}/bundle"},
    }  # fmt: skip
    return ties[stage]


def _options(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise CurateError(f"{where}: is {printable(given)}, but options by name are needed, as in gpus: 8.")
    return dict(given)


def _words(name: str, value: Any) -> list[str]:
    """An option on the command line: true is the bare option, false none, a list one for each."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]


def _parser(stage: str) -> argparse.ArgumentParser:
    if stage == "choose":
        from jobs.main import parser

        return parser()
    made = Parser(prog=f"curate {stage}")
    importlib.import_module(f"jobs.{stage}").add_arguments(made)
    return made
