"""From the bytes that arrived to the JPEG that is kept: hash, header, pixel count, then img2dataset's own resizing."""

import dataclasses
import hashlib
import io
import threading
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from pipeline.options import ImageOptions
from pipeline.statuses import OK

#: Formats, in Pillow's names, that both Pillow knows by their header and OpenCV decodes. AVIF is last: a Pillow from
#: before 11.3 doesn't know it and raises, and then nothing else may be left to try.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

#: A decoder goes over the whole image once a scan, and a scan can be 12 bytes long, so that 20 MB could keep it busy
#: for an hour. Progressive files have about 10; films and previews behind an image hold the mark by chance.
MAX_JPEG_SCANS = 500
_JPEG_SCAN = b"\xff\xda"

#: A row with more faces than this is no detector's output.
MAX_FACES = 1000

# The resizer points the process's standard output and error elsewhere while it works, and back again.
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """What became of the bytes of one image.

    Attributes:
        status: `ok`, `changed`, `not_an_image`, `too_many_pixels` or `undecodable`.
        sha256: of the bytes that arrived, 64 lower-case hexadecimal digits.
        jpeg: empty unless ok; so are the sizes, all in pixels: null.
    """

    status: str
    sha256: str
    jpeg: bytes = b""
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None


class ImageProcessor:
    """Turns bytes into pictures, one at a time in a process; a first one takes 1.5 s to import what it needs."""

    def __init__(self, options: ImageOptions):
        self.options = options
        self._resize = _resizer(options)
        # Pillow warns of what it sees in headers, which is hostile text; the status says what is needed.
        warnings.filterwarnings("ignore", module=r"PIL\.")

    def __call__(self, body: bytes, expected_sha256: str | None, boxes: Sequence[Sequence[float]] | None) -> Picture:
        """The picture made of `body`: the very JPEG that img2dataset writes with DataComp's settings.

        So what is odd about an image is treated as there: alpha goes onto white, EXIF orientation is not applied, of an
        animation the first frame is taken, 16 bits a channel, CMYK and greyscale become what OpenCV makes of them.

        Args:
            body: the bytes as they arrived.
            expected_sha256: the pool's, in either case of letters; null where the pool has none, and then nothing is
                compared. Anything else that isn't the body's is `changed`, whether or not it looks like a sha256.
            boxes: see `face_boxes`. Not looked at unless faces are blurred.

        Returns:
            `undecodable` also where the boxes are malformed: without them a face might be published.
        """
        sha256 = hashlib.sha256(body).hexdigest()
        if expected_sha256 is not None and expected_sha256.lower() != sha256 and not self.options.accept_changed:
            return Picture("changed", sha256)
        problem = header_problem(body, self.options.max_pixels)
        if problem:
            return Picture(problem, sha256)
        try:
            faces = face_boxes(boxes) if self.options.blur_faces else None
        except ValueError:
            return Picture("undecodable", sha256)
        with _ONE_AT_A_TIME:
            jpeg, *sizes, error = self._resize(io.BytesIO(body), faces)
        return Picture("undecodable", sha256) if error else Picture(OK, sha256, jpeg, *sizes)


def face_boxes(boxes: Sequence[Sequence[float]] | None) -> list[list[float]] | None:
    """The boxes with their corners in order, or null where there is no face; null means that none was found.

    A box is [x0, y0, x1, y1] in fractions of the image. It may hang over the edge by the image's size, as detectors'
    boxes do; wider ones would blur with kernels without bound.

    Raises:
        ValueError: a box isn't four numbers from -1 to 2 (so it isn't in fractions), or there are over MAX_FACES.
    """
    if not boxes:
        return None
    if len(boxes) > MAX_FACES:
        raise ValueError(f"{len(boxes)} face boxes, but at most {MAX_FACES} are taken.")
    for box in boxes:
        if box is None or len(box) != 4 or not all(value is not None and -1 <= value <= 2 for value in box):
            raise ValueError("a face box isn't four fractions of the image's size.")
    # A box with its corners swapped would blur nothing.
    return [[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)] for x0, y0, x1, y1 in boxes]


def header_problem(body: bytes, max_pixels: int) -> str | None:
    """The status of an image that must not be decoded, judged by its header; null where it may be."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            width, height = image.size
            is_jpeg = image.format in ("JPEG", "MPO")
    except Image.DecompressionBombError:
        return "too_many_pixels"
    except Exception:  # Pillow's readers raise a dozen kinds on hostile headers
        return "not_an_image"
    if width * height > max_pixels:
        return "too_many_pixels"
    return "undecodable" if is_jpeg and _marks(body) > MAX_JPEG_SCANS else None


def _marks(body: bytes) -> int:
    """How often a scan's mark occurs in the bytes: as `bytes.count` has it, in less than half of the time."""
    codes = np.frombuffer(body, np.uint8)
    return int(np.count_nonzero((codes[:-1] == _JPEG_SCAN[0]) & (codes[1:] == _JPEG_SCAN[1])))


def _resizer(options: ImageOptions) -> Callable:
    """img2dataset's resizer with DataComp's settings."""
    from pipeline.resizing import BoundingBoxBlurrer, Resizer

    return Resizer(
        image_size=options.size_px,
        resize_mode="keep_ratio_largest",
        resize_only_if_bigger=True,
        encode_format="jpg",
        encode_quality=95,
        blurrer=BoundingBoxBlurrer() if options.blur_faces else None,
    )
