"""`curate score`: a model's scores and features of a pool's images and captions, beside the pool's own columns."""

import argparse
import os
from typing import Any

from jobs import engines
from jobs.cli import add_model_arguments, folder, positive
from jobs.main import add_fetch_arguments, add_pool_arguments, add_runner_argument, fetch_policy
from metadata.errors import CurateError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which pool, by which model, where to."""
    add_pool_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--as", metavar="WORD", dest="name", help="what the model's columns are called by, as l14 in l14_img and "
        "clip_l14_similarity_score (default: b32 for ViT-B-32, l14 for ViT-L-14)"
    )  # fmt: skip
    parser.add_argument(
        "--shards", metavar="FOLDER", type=folder, help="read the images there, from tars whose json members have a "
        "uid, or from a run, and fetch none"
    )  # fmt: skip
    add_fetch_arguments(parser)
    parser.add_argument(
        "--accept-changed-images", action="store_true", help="score images whose sha256 is not the pool's any more"
    )
    parser.add_argument("--batch", metavar="N", type=positive, default=32, help="rows at a time (default: 32)")
    parser.add_argument(
        "--out", metavar="FOLDER", type=folder, required=True, help="becomes the scored pool; a path or address"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    parser.add_argument(
        "--workers", metavar="N", type=positive, help="processes of the local runner, each with the model (default: "
        f"one where there is a GPU, else the number of cores, {os.cpu_count() or 1} here)"
    )  # fmt: skip
    add_runner_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Scores, and says what came of it; returns the exit code."""
    if args.pool is None:
        raise CurateError("curate score: no --pool was given, but one is scored. Try --pool demo.")
    if args.runner == "local":
        from pipeline import workers

        workers.start_nursery(["pipeline.inference", "pipeline.fetch"])
    from pipeline import models, score
    from pipeline.failures import os_sentence

    processes = args.workers or (1 if models.on_gpu() else os.cpu_count() or 1)
    out = engines.place(args.out, args.runner)
    request = score.Request(
        pool=args.pool,
        scale=args.scale,
        model=args.model,
        pretrained=args.pretrained,
        out=out,
        run=engines.run_with(args.runner, processes, args.beam_options, out, args.pool),
        name=args.name,
        shards=args.shards and engines.place(args.shards, args.runner),
        batch=args.batch,
        workers=processes,
        columns=args.columns,
        limit_files=args.limit_files,
        overwrite=args.overwrite,
        fetch=fetch_policy(args),
        accept_changed=args.accept_changed_images,
    )
    try:
        record = score.score(request)
    except OSError as error:
        raise CurateError(os_sentence(error)) from error
    _summarise(record, request.out)
    if not record["statuses"].get("ok"):
        raise CurateError(f"{request.out}: none of the {record['rows']:,} rows has a score. The counts say why.")
    return 0


def _summarise(record: dict[str, Any], out: str) -> None:
    if record.get("nothing_to_do"):
        print(f"{out} is finished already: nothing to do (--overwrite to do it again)")
    print(f"rows         {record['rows']:>14,}  by {record['model']}, called {record['name']}")
    for status, n in sorted(record["statuses"].items(), key=lambda pair: (pair[0] != "ok", -pair[1])):
        print(f"  {'score' if status == 'ok' else 'no score':10} {n:>14,}  {status}")
    print(f"\nLook at      {out}/scores.json   what was done, with every hash")
    print(f"             {out}/metadata/     the pool with its scores and features, for curate --pool {out}/")
