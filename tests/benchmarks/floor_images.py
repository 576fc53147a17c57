"""The least that images cost: img2dataset's resizer on a folder's bytes in memory, again and again until it is killed.

    python floor_images.py FOLDER

Prints the time at which each image was done, in seconds of the epoch.
"""

import io
import itertools
import os
import pathlib
import sys
import time

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for updates


def main(folder: str) -> None:
    from img2dataset.resizer import Resizer

    bodies = [path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*.jpg"))]
    resizer = Resizer(image_size=512, resize_mode="keep_ratio_largest", resize_only_if_bigger=True)
    for body in itertools.cycle(bodies):
        if (error := resizer(io.BytesIO(body))[-1]) is not None:
            raise RuntimeError(error)
        print(time.time(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
