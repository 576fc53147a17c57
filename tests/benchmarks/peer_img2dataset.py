"""img2dataset's own download with DataComp's settings, but shards small enough that every process has several.

    python peer_img2dataset.py POOL OUT PROCESSES SAMPLES_PER_SHARD
"""

import os
import sys

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for updates


def main(pool: str, out: str, processes: int, samples: int) -> None:
    from img2dataset import download

    download(
        url_list=pool,
        output_folder=out,
        processes_count=processes,
        thread_count=128,
        number_sample_per_shard=samples,
        image_size=512,
        resize_mode="keep_ratio_largest",
        resize_only_if_bigger=True,
        encode_format="jpg",
        output_format="webdataset",
        input_format="parquet",
        url_col="url",
        caption_col="text",
        bbox_col="face_bboxes",
        save_additional_columns=["uid"],
        oom_shard_count=8,
        retries=2,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
