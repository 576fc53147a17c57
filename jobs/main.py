"""The main job: `curate --pool commoncrawl --scale small`."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import engines
from jobs.cli import COMMANDS, Parser, Version, add_columns_argument, folder, parsed, positive
from metadata.errors import CurateError, printable

#: What lets a run have images that mostly ended as this.
_MENDS = {
    "forbidden_address": "`curate retry RUN --status forbidden_address --allow-host HOST[:PORT]` fetches from private "
                         "addresses that you trust",
    "changed": "the same command with --accept-changed-images --overwrite takes what the links lead to now",
}  # fmt: skip

_DESCRIPTION = """\
From a pool of image-text pairs to a DataComp subset file and webdataset shards: chooses rows by a recipe, fetches the
images of the chosen rows only, writes shards that open_clip trains on, and accounts for every row.

Other commands (curate COMMAND --help):
"""


def parser() -> Parser:
    """The main job's parser."""
    lines = "".join(f"  {name:9} {summary}\n" for name, summary in COMMANDS.items())
    result = Parser(
        prog="curate",
        description=_DESCRIPTION + lines,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Options of Apache Beam's own are handed on to it, with a --runner other than local.",
    )
    result.add_argument("--version", action=Version)
    add_arguments(result)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which pool, what to choose, how images are fetched, where to."""
    add_pool_arguments(parser.add_argument_group("the pool"))

    choosing = parser.add_argument_group("choosing")
    add_recipe_arguments(choosing)
    choosing.add_argument("--select-only", action="store_true", help="stop when the subset is chosen; fetch no image")
    choosing.add_argument(
        "--keep-dropped", action="store_true", help="also write dropped uids with the step that dropped them"
    )
    choosing.add_argument(
        "--min-kept",
        metavar="FRACTION",
        type=_fraction,
        default=0.001,
        help="stop when a step keeps less than this fraction of the rows that reach it (default: %(default)s)",
    )

    add_image_arguments(parser.add_argument_group("images"))

    running = parser.add_argument_group("running")
    running.add_argument(
        "--out",
        metavar="FOLDER",
        type=folder,
        help="the run's folder, a path or address (default: runs/POOL-SCALE-RECIPE)",
    )
    running.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    add_running_arguments(running)
    add_runner_argument(running)


def add_pool_arguments(group: argparse._ActionsContainer) -> None:
    """Which pool: for the main job, `curate plan` and `curate score`."""
    group.add_argument(
        "--pool",
        metavar="NAME|ADDRESS",
        help="commoncrawl (DataComp's CommonPool on the Hub), datacomp_1b, demo or demo:PAIRS (made here, needs none "
        "of the outside), or any parquet file, folder or glob: a path, s3://, gs://, hf://, https://",
    )
    group.add_argument("--scale", metavar="SCALE", help="of commoncrawl: small, medium, large or xlarge")
    add_columns_argument(group)
    group.add_argument("--limit-files", metavar="N", type=positive, help="try the first N files of the pool only")


def add_recipe_arguments(group: argparse._ActionsContainer) -> None:
    """Which recipe: for the main job and `curate plan`."""
    group.add_argument(
        "--recipe",
        metavar="NAME|FILE.yaml",
        help="one of `curate recipes`, or a file of your own (default: clip_score_balanced)",
    )
    group.add_argument(
        "--entries",
        metavar="NAME|FILE",
        help="the entry list that recipes by name balance by: wordnet, or a file of `curate metadata` (default: the "
        "pool's own, wordnet for most)",
    )
    group.add_argument(
        "--file",
        metavar="NAME=PATH",
        type=_file,
        action="append",
        default=[],
        help="the file that a recipe calls by that name, as image_based does centroids and targets (repeatable)",
    )


def recipe_of(args: argparse.Namespace):
    """The Recipe that `add_recipe_arguments`' options ask for, with the pool's own entry lists."""
    from filters import recipes
    from filters.balance import LIST_NAMES, Balance
    from pipeline.pools import entry_lists

    lists = dict.fromkeys(LIST_NAMES, args.entries) if args.entries else entry_lists(args.pool)
    recipe = recipes.open_recipe(args.recipe or recipes.DEFAULT, lists, _files(args.file))
    if args.entries and not any(isinstance(step, Balance) and step.entries in lists for step in recipe.steps):
        raise CurateError(f"--entries {printable(args.entries)}: is given, but recipe {recipe.name} doesn't balance by "
                          f"the entries of a run. Leave it out.")  # fmt: skip
    return recipe


def add_image_arguments(group: argparse._ActionsContainer) -> None:
    """How images are fetched and made: for the main job and `curate plan`."""
    add_fetch_arguments(group)
    group.add_argument(
        "--accept-changed-images",
        action="store_true",
        help="keep images whose sha256 is not the pool's any more (kept out and counted otherwise)",
    )
    group.add_argument(
        "--image-size", metavar="PX", type=positive, default=512,
        help="longer side of what is kept: larger images are scaled down to it (default: %(default)s, as DataComp)",
    )  # fmt: skip
    group.add_argument("--no-blur-faces", action="store_true", help="leave the faces in face_bboxes as they are")


def image_options(args: argparse.Namespace):
    """The ImageOptions that `add_image_arguments`' options ask for."""
    from pipeline.options import ImageOptions

    return ImageOptions(
        size_px=args.image_size, blur_faces=not args.no_blur_faces, accept_changed=args.accept_changed_images
    )


def add_fetch_arguments(group: argparse._ActionsContainer) -> None:
    """How images are fetched: for the main job and `curate retry`."""
    group.add_argument(
        "--allow-host",
        metavar="HOST[:PORT]",
        type=_host,
        action="append",
        default=[],
        help="fetch from this host though its address is private or loopback (repeatable)",
    )
    group.add_argument(
        "--connections", metavar="N", type=positive, help="requests under way at once in a worker (default: 128)"
    )
    group.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, help="for one image, all tries together (default: 30)"
    )


def fetch_policy(args: argparse.Namespace):
    """The FetchPolicy that `add_fetch_arguments`' options ask for."""
    from pipeline.options import FetchPolicy

    asked = {"concurrency": args.connections, "timeout_s": args.timeout}
    return FetchPolicy(allow_hosts=frozenset(args.allow_host), **{k: v for k, v in asked.items() if v is not None})


def add_running_arguments(group: argparse._ActionsContainer) -> None:
    """The local runner's size."""
    group.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=os.cpu_count() or 1,
        help="processes of the local runner (default: the number of cores, %(default)s here)",
    )


def add_runner_argument(group: argparse._ActionsContainer) -> None:
    """Where the job runs."""
    group.add_argument(
        "--runner",
        type=engines.runner_name,
        default="local",
        metavar="NAME",
        help="local, or any runner of Beam's such as flink, spark, dataflow",
    )


def run(argv: Sequence[str]) -> int:
    """Parses `argv` and does the job; returns the exit code."""
    options = parser()
    args = parsed(options, argv)
    if args.pool is None:
        options.error("no --pool was given, but the job needs one. Try: curate --pool demo")
    if args.runner == "local":
        engines.warm_up(images=not args.select_only)

    from pipeline.curate import Request, curate

    recipe = recipe_of(args)
    out = engines.place(args.out or _default_out(args, recipe.name), args.runner)
    request = Request(
        pool=args.pool,
        scale=args.scale,
        recipe=recipe,
        out=out,
        run=engines.run_with(args.runner, args.workers, args.beam_options, out, args.pool),
        columns=args.columns,
        limit_files=args.limit_files,
        select_only=args.select_only,
        keep_dropped=args.keep_dropped,
        overwrite=args.overwrite,
        min_kept=args.min_kept,
        fetch=fetch_policy(args),
        images=image_options(args),
    )
    print(
        f"curate: pool {args.pool}{' ' + args.scale if args.scale else ''}, recipe {recipe.name}"
        f"{'' if args.recipe else ' (the default)'}, into {request.out}",
        file=sys.stderr,
    )
    record = curate(request)
    _summarise(record, request.out)
    if record.get("samples") is not None and not record["samples"].get("ok"):
        commonest = max(record["samples"], key=record["samples"].get)
        raise CurateError(
            f"{request.out}: none of the {record['rows']['samples']:,} images could be had, so the shards are empty. "
            f"Most ended as {commonest}: {_MENDS.get(commonest, '`curate retry` fetches again')}."
        )
    return 0


def _summarise(record: dict[str, Any], out: str) -> None:
    rows = record["rows"]
    if record.get("nothing_to_do"):
        print(f"{out} is finished already: nothing to do (--overwrite to do it again)")
    print(f"\nrows in    {rows['in']:>14,}")
    for step in rows["dropped"]:
        print(f"  dropped  {step['dropped']:>14,}  by {step['step']}")
    print(f"rows kept  {rows['kept']:>14,}  ({rows['kept'] / rows['in']:.1%})")
    if rows["samples"] != rows["kept"]:
        print(f"samples    {rows['samples']:>14,}  ({rows['samples'] / rows['kept']:.2f} of each row kept, on average)")
    for fitted in record["fitted"]:
        for name, parameters in fitted.items():
            print(f"  {name}: {listed(parameters)}")
            if name in record["told"]:
                print(f"  {' ' * len(name)}  {listed(record['told'][name])}")
    for status, n in sorted(record.get("samples", {}).items(), key=lambda pair: (pair[0] != "ok", -pair[1])):
        print(f"  {'image' if status == 'ok' else 'no image'} {n:>12,}  {status}")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    print(f"\nLook at    {out}/manifest.json   what was done, with every count and hash")
    print(f"           {out}/subset.npy      the subset, as DataComp reads it")
    for name in filter(record["sha256"].__contains__, ("entry_counts.parquet", "balance.svg")):
        print(f"           {out}/{name}")
    if "samples" in record:
        print(f"           {out}/shards/         webdataset shards, each with its ledger (.parquet)")


def listed(values: Mapping[str, Any]) -> str:
    """Numbers and words by name; hashes, and what has parts of its own, are for the manifest; what is None is not."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items()
                     if not name.endswith("sha256") and not isinstance(value, dict | None))  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _default_out(args: argparse.Namespace, recipe: str) -> str:
    pool = os.path.basename(args.pool.rstrip("/")).replace("*", "").removesuffix(".parquet").strip(".") or "pool"
    return "-".join(filter(None, [f"runs/{pool.replace(':', '-')}", args.scale, recipe]))


def _file(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but NAME=PATH is needed, as in targets=imagenet.npy")
    return name, path


def _files(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Paths by name; a name that comes twice is an error."""
    files: dict[str, str] = {}
    for name, path in pairs:
        if name in files:
            raise CurateError(f"--file {printable(name)}: is given twice ({printable(files[name])}, "
                              f"{printable(path)}), but a name stands for one file. Leave one out.")  # fmt: skip
        files[name] = path
    return files


def _host(text: str) -> str:
    """The type of --allow-host: as FetchPolicy takes it, which is how addresses are written that are looked up."""
    import ipaddress
    import urllib.parse

    from pipeline.addresses import Refused, parse_url

    try:
        with contextlib.suppress(ValueError):
            text = f"[{ipaddress.IPv6Address(text)}]"
        if set(text) & set("/\\?#*@") or text.endswith(":"):
            raise Refused("bad_url")
        host, port = parse_url(f"http://{text}").raw_host or "", urllib.parse.urlsplit(f"//{text}").port
    except (Refused, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is given, but a host's name or address alone is needed, with a port or without, as in "
            f"localhost:8080 or [::1]:8080"
        ) from error
    return (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a number of seconds above 0 is needed")
    return value


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a number from 0 to 1 is needed")
    return value
