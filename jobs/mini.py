"""The demo pool as a small DataComp: recipes against each other on one pool, each trained on as many samples.

    python -m jobs.mini run                     what `make mini` does
    python -m jobs.mini eval-sets --out sets    its evaluation sets alone

What `run` leaves:

    OUT/sets/               evaluation sets, balanced over the world's concepts
    OUT/clean/, scorer/     a few clean pairs of the world, and the CLIP trained on them that scores the pool
    OUT/pool/, scored/      the pool's images, fetched once, and its rows with the scorer's scores
    OUT/choice/, data/      by recipe: the rows it chose, and their shards
    OUT/models/             by recipe and seed: the model and its results.jsonl
    OUT/mini.json           every number; table.md and mini.svg are made of it
    OUT/log/                what each command said

Every stage is a command of `curate`, which does nothing where it is finished: so the study goes on where it stopped.
No stage reads the pool's truth column.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from jobs.cli import Action, Parser, Terminated, as_command, folder, positive, stoppable
from metadata.errors import CurateError, unknown

#: The scorer's fraction is DataComp's for a CLIP score, the tail's share MetaCLIP's.
_SCORE, _BALANCE = "clip_score: {model: dfn, fraction: 0.3}", "balance: {entries: demo, tail_share: 0.06}"
#: By name: steps of a YAML recipe, or None for the recipe of that name.
RECIPES: dict[str, tuple[str, ...] | None] = {
    "no_filter": None,
    "basic_filter": None,
    "dfn_score": (_SCORE,),
    "balanced": ("language: en", _BALANCE),
    "dfn_score_balanced": (_SCORE, _BALANCE),
}
#: Pairs that the scorer is trained on, and how often it sees each.
_CLEAN_PAIRS, _CLEAN_PASSES = 5000, 16
#: Pixels of a training image's longer side: twice what the laptop scale's model sees, and a third of the work.
_IMAGE_PX = 64
#: Tiny models share no work well among threads: each training has one thread, and so many are under way at once.
_AT_ONCE = min(4, os.cpu_count() or 1)
_LAST_LINES = 12

#: All that were begun, and whether this process was asked to end.
_commands: list[subprocess.Popen] = []
_ending = threading.Event()


class Study(NamedTuple):
    """What is compared: how large a pool, how long each training, how many of them."""

    out: str
    pairs: int
    samples_seen: int
    seeds: int
    recipes: tuple[str, ...]

    def path(self, *parts: str) -> str:
        return os.path.join(self.out, *parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Does the step; returns the exit code, as `jobs.cli.main` has it."""
    args = _parser().parse_args(argv)
    try:
        if args.step == "eval-sets":
            return _write_sets(args)
        return _run(Study(args.out, args.pairs, args.samples_seen, args.seeds, _named(args.recipes)))
    except CurateError as error:
        print(f"mini: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        from pipeline.failures import os_sentence

        print(f"mini: {os_sentence(error)}", file=sys.stderr)
        return 1


def _terminate(*_: object) -> None:
    """Hands SIGTERM on to the commands; Ctrl-C they have from the terminal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who sends it to all processes may have others that hand it on
    _ending.set()
    for process in _commands:
        process.terminate()
    raise Terminated


def entry() -> None:
    """What `python -m jobs.mini` does."""
    signal.signal(signal.SIGTERM, _terminate)
    as_command(_work)


def _work() -> int:
    code = stoppable("mini", main)
    for process in _commands:  # when this one was stopped, they were, too
        process.wait()
    return code


def _parser() -> Parser:
    parser = Parser(prog="python -m jobs.mini", description="A small DataComp on the demo pool, without a download.")
    steps = parser.add_subparsers(dest="step", required=True, parser_class=Action, metavar="run | eval-sets")
    run = steps.add_parser("run", help="the study", description="The study: goes on where it stopped.")
    run.add_argument("--out", metavar="FOLDER", type=folder, default="runs/mini", help="default: %(default)s")
    run.add_argument("--pairs", metavar="N", type=positive, default=20_000, help="of the pool (default: 20,000)")
    run.add_argument("--samples-seen", metavar="N", type=positive, default=81_920,
                     help="in each training, and at most by the scorer (default: 81,920)")  # fmt: skip
    run.add_argument("--seeds", metavar="N", type=positive, default=3, help="trainings of a recipe (default: 3)")
    run.add_argument("--recipes", metavar="NAME[,NAME]", help=f"some of {', '.join(RECIPES)} (default: all)")
    sets = steps.add_parser("eval-sets", help="its evaluation sets alone", description="Writes the evaluation sets.")
    sets.add_argument("--out", metavar="FOLDER", type=folder, required=True, help="gets a folder for each of them")
    sets.add_argument("--per-concept", metavar="N", type=positive, default=2,
                      help="pictures of each of the 400 concepts in a task (default: 2)")  # fmt: skip
    return parser


def _named(text: str | None) -> tuple[str, ...]:
    """The recipes of a list, each once: two trainings can't be in one folder."""
    names = tuple(dict.fromkeys(text.split(","))) if text else tuple(RECIPES)
    for name in names:
        if name not in RECIPES:
            raise unknown("recipe", name, RECIPES, where="--recipes")
    return names


def _write_sets(args: Any) -> int:
    from pipeline import made_tasks

    path = made_tasks.write(args.out, args.per_concept)
    print(f"curate evaluate --tasks {path} --data {args.out} --model …")
    return 0


def _run(study: Study) -> int:
    from pipeline import made_pairs, made_tasks, storage
    from pipeline import study as studies

    start = time.monotonic()
    for number, (what, words) in enumerate(stages := list(_stages(study)), 1):
        print(f"mini: {what} ({number} of {len(stages)})", file=sys.stderr, flush=True)
        if what == "evaluation sets" and not os.path.exists(study.path("sets", "tasklist.yml")):
            made_tasks.write(study.path("sets"))
        if what == "clean pairs":
            made_pairs.write(study.path("clean"), min(_CLEAN_PAIRS, study.pairs), _IMAGE_PX)
        if words:
            _command(study, what, words)
    _train_all(study)
    record = _collect(study)
    storage.write_json(study.path("mini.json"), record)
    storage.write(study.path("table.md"), (table := studies.table(record)).encode())
    storage.write(study.path("mini.svg"), studies.picture(record))
    print(f"{table}\nLook at {study.out}/mini.json, {study.out}/table.md, {study.out}/mini.svg")
    print(f"mini: took {time.monotonic() - start:,.0f} s", file=sys.stderr)
    return 0


def _stages(study: Study) -> Iterator[tuple[str, list[str]]]:
    """What comes before the trainings, in order: its name and the command, if it is one."""
    yield "evaluation sets", []
    yield "clean pairs", []
    seen = min(study.samples_seen, _CLEAN_PASSES * min(_CLEAN_PAIRS, study.pairs))
    yield "scorer", _training(study.path("clean"), study.path("scorer"), seen, 0)
    pool, scored = study.path("pool"), study.path("scored")
    yield "pool", ["--pool", f"demo:{study.pairs}", "--recipe", "no_filter", "--image-size", str(_IMAGE_PX),
                   "--out", pool]  # fmt: skip
    # From the pool's shards: what has no image has no score.
    yield "scores", ["score", "--pool", f"demo:{study.pairs}", "--model", study.path("scorer"), "--as", "dfn",
                     "--shards", pool, "--out", scored]  # fmt: skip
    for name in study.recipes:
        chosen = study.path("choice", name)
        yield f"choose {name}", ["--pool", f"{scored}/metadata/", "--recipe", _recipe(study, name), "--select-only",
                                 "--out", chosen]  # fmt: skip
        yield f"data {name}", ["reshard", "--shards", f"{pool}/shards", "--subset", f"{chosen}/subset.npy",
                               "--samples", "500", "--out", study.path("data", name)]  # fmt: skip


def _recipe(study: Study, name: str) -> str:
    """The recipe's name, or the file that it is written to."""
    from pipeline import storage

    steps = RECIPES[name]
    if steps is None:
        return name
    text = f"name: {name}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps)
    storage.write(path := study.path("recipes", f"{name}.yaml"), text.encode())
    return path


def _training(data: str, out: str, samples_seen: int, seed: int) -> list[str]:
    return ["train", "--scale", "laptop", "--data", data, "--samples-seen", str(samples_seen), "--seed", str(seed),
            "--workers", "1", "--out", out]  # fmt: skip


def _command(study: Study, what: str, words: Sequence[str], threads: int | None = None) -> None:
    """Runs `curate` and keeps what it says in a log.

    Raises:
        CurateError: it failed; with the end of its log.
    """
    log = study.path("log", f"{what.replace(' ', '-')}.txt")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "jobs.cli", *words]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
        _commands.append(process)
        if _ending.is_set():  # by a thread, which began it just then
            process.terminate()
        code = process.wait()
    if code:
        with open(log, encoding="utf-8", errors="replace") as file:
            end = "".join(f"    {line}" for line in file.readlines()[-_LAST_LINES:])
        raise CurateError(f"{what}: ended with exit code {code}, but the study goes on from it. Look at {log}, which "
                          f"ends so, then run the same command again:\n{end}\n    {shlex.join(words)}")  # fmt: skip


def _train_all(study: Study) -> None:
    """Trains and evaluates every recipe with every seed, some at once; seed by seed, so that half is a study too."""
    from pipeline.progress import duration

    jobs = [(name, seed) for seed in range(study.seeds) for name in study.recipes]
    start, already = time.monotonic(), sum(os.path.exists(_results(study, *job)) for job in jobs)
    failed = threading.Event()

    def train(name: str, seed: int) -> bool:
        """Whether it was begun: Ctrl-C may have ended the trainings under way before this process knows of it."""
        if failed.is_set():
            return False
        try:
            _train(study, name, seed)
        except BaseException:
            failed.set()
            raise
        return True

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = {pool.submit(train, *job): job for job in jobs}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                if not future.result():
                    continue
                name, seed = futures[future]
                # Those that were done before say nothing about the rest.
                rest = (time.monotonic() - start) / max(1, done - already) * (len(jobs) - done)
                left = f", about {duration(rest)} left" if done > already else ""
                print(f"mini: training {done} of {len(jobs)} is done and evaluated ({name}, seed {seed}){left}",
                      file=sys.stderr, flush=True)  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train(study: Study, name: str, seed: int) -> None:
    model, sets = study.path("models", f"{name}-{seed}"), study.path("sets")
    _command(study, f"train {name} {seed}", _training(study.path("data", name), model, study.samples_seen, seed), 1)
    words = ["evaluate", "--tasks", f"{sets}/tasklist.yml", "--data", sets, "--model", model]
    _command(study, f"evaluate {name} {seed}", words, 1)


def _results(study: Study, name: str, seed: int) -> str:
    return study.path("models", f"{name}-{seed}", "results.jsonl")


def _collect(study: Study) -> dict[str, Any]:
    """Every number, read from what the commands left."""
    from pipeline import evaluate, made_tasks, storage

    recipes, keys = {}, []
    for name in study.recipes:
        seeds = []
        for seed in range(study.seeds):
            results = evaluate.read_results(_results(study, name, seed))
            seeds.append({key: line["metrics"]["main_metric"] for key, line in results.items()})
        keys = list(seeds[0])
        trained = storage.read_json(study.path("models", f"{name}-0", "train.json"))
        images = trained["data"][0]["samples"]
        recipes[name] = {
            "steps": RECIPES[name],
            "rows": storage.read_json(study.path("choice", name, "manifest.json"))["rows"]["kept"],
            "images": images,
            "passes": trained["samples_seen_in_whole_batches"] / images,
            "seeds": seeds,
        }
    return {"pairs": study.pairs, "samples_seen": study.samples_seen, "chance": {k: made_tasks.CHANCE[k] for k in keys},
            "recipes": recipes}  # fmt: skip


if __name__ == "__main__":
    entry()
