"""`curate plan`: what a run would give and cost, before it is begun."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from jobs.cli import positive
from metadata.errors import CurateError

_LABELS = {
    "rows_in": "rows in",
    "rows_kept": "rows kept",
    "samples": "samples",
    "images_to_fetch": "images to fetch",
    "images_ok": "images in shards",
    "bytes_fetched": "bytes fetched",
    "bytes_shards": "bytes of shards",
    "shards": "shards",
    "bytes_beside_shards": "bytes beside them",
    "seconds_choosing": "choosing takes",
    "seconds_images": "images take",
    "seconds": "in all",
    "memory_bytes": "a worker's memory",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The main job's, and how much is looked at."""
    from jobs import main

    main.add_pool_arguments(parser.add_argument_group("the pool"))
    choosing = parser.add_argument_group("choosing")
    main.add_recipe_arguments(choosing)
    choosing.add_argument("--select-only", action="store_true", help="of a run that fetches no image")
    main.add_image_arguments(parser.add_argument_group("images"))
    planning = parser.add_argument_group("planning")
    main.add_running_arguments(planning)
    planning.add_argument(
        "--files", metavar="N", type=positive, default=3, help="of the pool that are read, spread over all (default: "
        "%(default)s)"
    )  # fmt: skip
    planning.add_argument(
        "--images", metavar="N", type=_count, default=200, help="that are fetched; 0 for none, and then what is known "
        "of CommonPool is taken (default: %(default)s)"
    )  # fmt: skip
    planning.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Tries, and says what came of it; returns the exit code."""
    if args.pool is None:
        raise CurateError("no --pool was given, but a plan needs one. Try: curate plan --pool demo")
    import pyarrow as pa

    from jobs import main
    from pipeline import estimate
    from pipeline.pools import open_pool

    pa.set_cpu_count(1)  # as in a worker
    recipe = main.recipe_of(args)
    asked = estimate.Asked(
        pool=open_pool(args.pool, args.scale, args.columns),
        recipe=recipe,
        workers=args.workers,
        limit_files=args.limit_files,
        select_only=args.select_only,
        fetch=main.fetch_policy(args),
        image_options=main.image_options(args),
        files=args.files,
        images=args.images,
    )
    print(f"curate: planning pool {args.pool}{' ' + args.scale if args.scale else ''}, recipe {recipe.name}"
          f"{'' if args.recipe else ' (the default)'}, {args.workers} workers", file=sys.stderr)  # fmt: skip
    found = estimate.estimate(asked)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        _summarise(found, args.workers)
    return 0


def _summarise(found: Any, workers: int) -> None:
    read = f"{found.files[1]:,} of {found.files[0]:,} files, {found.rows:,} rows"
    print(f"read     {read}\nfetched  {found.images:,} images\n")
    print(f"{'':19}{'about':>15}   {'95% between':<31}rests on")
    for name, figure in found.figures.items():
        _line(_LABELS[name], figure, _form(name))
        if name == "rows_kept":
            for step, share in found.dropped.items():
                print(f"  dropped{share:>24.1%}   by {step}")
        if name == "images_ok":
            for status, share in found.unreachable.items():
                _line(f"  {status}", share, lambda value: f"{value:.1%}")
    if found.figures["memory_bytes"].value and workers > 1:
        print(f"\n{workers} workers: {_bytes(workers * found.figures['memory_bytes'].value)} of memory, if no page is "
              f"shared.")  # fmt: skip
    for step in found.at_most:
        print(f"\n{step} compares rows of the whole pool, and keeps more of a sample: rows kept, and what follows from "
              f"them, are likely less.")  # fmt: skip
    print("\nTimes are those of this machine and its network, with every worker as fast as one here alone. The start "
          "of a run\nand of its workers takes some seconds more; on a cluster it can be minutes.")  # fmt: skip


def _line(label: str, figure: Any, form: Any) -> None:
    between = f"{form(figure.low)} to {form(figure.high)}" if figure.low < figure.high else ""
    print(f"{label:<19}{form(figure.value):>15}   {between:<31}{figure.basis}")


def _form(name: str) -> Any:
    from pipeline.progress import duration

    if "bytes" in name:
        return _bytes
    return duration if name.startswith("seconds") else lambda value: f"{value:,.0f}"


def _bytes(number: float) -> str:
    """Bytes as people say them: 812 MB, 3.4 TB."""
    unit = next(unit for unit in ("kB", "MB", "GB", "TB", "PB") if (number := number / 1000) < 1000 or unit == "PB")
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:,.0f} {unit}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a whole number is needed, 0 for none")
    return int(text)
