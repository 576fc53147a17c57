"""From bytes to pictures: img2dataset's own JPEG for what is an image, and a status for everything else."""

import dataclasses
import hashlib
import io
import math
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.images import ImageProcessor, Picture, face_boxes
from pipeline.options import ImageOptions
from pipeline.statuses import STATUSES

FACE = [[0.2, 0.3, 0.4, 0.6]]


def drawing(width=900, height=700, channels=3) -> np.ndarray:
    """Soft blobs and hard edges, so that any other way of resizing or blurring gives other pixels."""
    rng = np.random.default_rng(width * 10_000 + height)
    image = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, channels), np.uint8)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    for x in range(0, width, 97):
        image[:, x : x + 3] = x % 256
    return image


def encoded(extension: str, image: np.ndarray, *params: int) -> bytes:
    return cv2.imencode(extension, image, params)[1].tobytes()


def pillow(form: str, image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header declares these sides, with hardly any pixels in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def theirs(body: bytes, boxes=None) -> tuple:
    """What img2dataset's own resizer makes of it with DataComp's settings."""
    from img2dataset.blurrer import BoundingBoxBlurrer
    from img2dataset.resizer import Resizer

    *result, error = Resizer(512, "keep_ratio_largest", True, blurrer=BoundingBoxBlurrer())(io.BytesIO(body), boxes)
    assert error is None
    return tuple(result)


def sizes_of(picture: Picture) -> tuple:
    return picture.jpeg, picture.width, picture.height, picture.original_width, picture.original_height


def refused(picture: Picture) -> str:
    """Its status, once it is sure that nothing else is in it."""
    assert sizes_of(picture) == (b"", None, None, None, None)
    assert picture.status in STATUSES
    return picture.status


@pytest.fixture(scope="module")
def process() -> ImageProcessor:
    return ImageProcessor(ImageOptions())


JPEG = encoded(".jpg", drawing())
CUT_OFF = JPEG[: len(JPEG) // 2]
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by 90 degrees
DRAWN = Image.fromarray(drawing(640, 600))

IMAGES = {
    "jpeg": JPEG,
    "small jpeg": encoded(".jpg", drawing(300, 200)),
    "progressive": encoded(".jpg", drawing(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "turned": pillow("JPEG", DRAWN, exif=EXIF),
    "cmyk": pillow("JPEG", DRAWN.convert("CMYK")),
    "several in one": pillow("MPO", DRAWN, save_all=True, append_images=[DRAWN]),
    "grey": encoded(".jpg", drawing(channels=1)),
    "png": encoded(".png", drawing(513, 40)),
    "alpha": encoded(".png", drawing(600, 300, 4)),
    "16 bits": encoded(".png", drawing(600, 300).astype(np.uint16) * 255),
    "palette": pillow("PNG", DRAWN.convert("P")),
    "1 bit": pillow("PNG", DRAWN.convert("1")),
    "webp": encoded(".webp", drawing(700, 500)),
    "gif": pillow("GIF", DRAWN, save_all=True, append_images=[DRAWN.rotate(180)]),
    "bmp": encoded(".bmp", drawing(40, 30)),
    "tiff": encoded(".tiff", drawing(600, 30)),
    "ppm": encoded(".ppm", drawing(600, 30)),
    "jpeg 2000": encoded(".jp2", drawing(600, 300)),
    "one pixel": encoded(".png", drawing(1, 1)),
    "a line": encoded(".png", drawing(5000, 1)),
}


@pytest.mark.parametrize("body", IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize("boxes", [None, FACE], ids=["no face", "a face"])
def test_the_jpeg_is_the_one_img2dataset_makes(process, body, boxes):
    picture = process(body, None, boxes)
    assert picture.status == "ok"
    assert sizes_of(picture) == theirs(body, boxes)
    assert picture.sha256 == hashlib.sha256(body).hexdigest()
    Image.open(io.BytesIO(picture.jpeg)).verify()


def test_the_longer_side_is_scaled_down_and_never_up(process):
    large, small = process(JPEG, None, None), process(IMAGES["small jpeg"], None, None)
    assert (large.width, large.height, large.original_width, large.original_height) == (512, 398, 900, 700)
    assert (small.width, small.height) == (300, 200)
    assert ImageProcessor(ImageOptions(size_px=64))(JPEG, None, None).width == 64


# The hash.


@pytest.mark.parametrize("expected", [None, hashlib.sha256(JPEG).hexdigest(), hashlib.sha256(JPEG).hexdigest().upper()])
def test_bytes_with_the_pools_sha256_or_none_to_compare_pass(process, expected):
    assert process(JPEG, expected, None).status == "ok"


@pytest.mark.parametrize("expected", ["0" * 64, "", "not a hash", hashlib.sha256(JPEG).hexdigest()[:63], "\x00é"])
def test_any_other_sha256_is_changed(process, expected):
    picture = process(JPEG, expected, None)
    assert refused(picture) == "changed"
    assert picture.sha256 == hashlib.sha256(JPEG).hexdigest()


def test_the_hash_is_compared_before_the_bytes_are_looked_at(process):
    assert refused(process(b"<html>moved</html>", "0" * 64, None)) == "changed"
    accepting = ImageProcessor(ImageOptions(accept_changed=True))
    assert refused(accepting(b"<html>moved</html>", "0" * 64, None)) == "not_an_image"
    assert sizes_of(accepting(JPEG, "0" * 64, None)) == theirs(JPEG)


# The header.

NO_IMAGES = {
    "empty": b"",
    "html": b"<!doctype html><title>404</title>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "icon": pillow("ICO", DRAWN.resize((32, 32))),
    "targa": pillow("TGA", DRAWN),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pdf": b"%PDF-1.4\n",
    "jpeg mark alone": b"\xff\xd8\xff\xe0",
    "png mark alone": b"\x89PNG\r\n\x1a\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "noise": np.random.default_rng(0).bytes(5000),
}


@pytest.mark.parametrize("body", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_other_bytes_are_no_image(process, body):
    assert refused(process(body, None, None)) == "not_an_image"


@pytest.mark.parametrize("sides", [(30_000, 30_000), (10_000, 9_999), (2**31 - 1, 2**31 - 1), (40_000_000, 1)])
def test_too_many_pixels_are_refused_by_the_header(sides, monkeypatch):
    processor = ImageProcessor(ImageOptions())
    monkeypatch.setattr(processor, "_resize", lambda *_: pytest.fail("it was decoded"))
    assert refused(processor(png_of(*sides), None, None)) == "too_many_pixels"


def test_pillows_own_alarms_say_nothing(recwarn, capfd):
    warnings.simplefilter("always")
    processor = ImageProcessor(ImageOptions())
    processor(png_of(10_000, 10_000), None, None)  # Pillow warns from 89 million pixels, and raises from 179 million
    processor(png_of(20_000, 20_000), None, None)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_the_largest_allowed_is_allowed():
    exact = encoded(".png", drawing(70, 50))
    assert ImageProcessor(ImageOptions(max_pixels=3500))(exact, None, None).status == "ok"
    assert refused(ImageProcessor(ImageOptions(max_pixels=3499))(exact, None, None)) == "too_many_pixels"


def test_a_tiff_that_has_its_sizes_twice_is_not_decoded(tmp_path):
    """Pillow takes the last of equal tags, OpenCV's libtiff the first. In a process that OpenCV is new to."""
    width, height, rows = 7000, 7000, 64
    strip, strips = zlib.compress(bytes(width * rows * 3), 9), -(-height // rows)
    places = struct.pack(f"<{2 * strips}I", *[8] * strips, *[len(strip)] * strips)  # all strips are one
    at = 8 + len(strip) + len(strip) % 2
    tags = [(256, width), (256, 10), (257, height), (257, 10), (258, 8), (259, 8), (262, 2), (273, at), (277, 3),
            (278, rows), (279, at + 4 * strips)]  # fmt: skip
    counts = {273: strips, 279: strips}
    entries = b"".join(struct.pack("<HHII", tag, 4, counts.get(tag, 1), value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    body = b"II*\0" + struct.pack("<I", at + len(places)) + strip.ljust(at - 8, b"\0") + places + directory
    assert Image.open(io.BytesIO(body)).size == (10, 10)
    (tmp_path / "twice.tiff").write_bytes(body)
    code = """if True:
        import pathlib, re, sys
        from pipeline.images import ImageOptions, ImageProcessor
        picture = ImageProcessor(ImageOptions())(pathlib.Path(sys.argv[1]).read_bytes(), None, None)
        print(picture.status, *re.findall(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text()))"""
    said = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "twice.tiff")], text=True).split()
    assert said[0] == "undecodable"
    assert int(said[1]) < 400_000  # kB


def test_of_an_animation_one_frame_is_counted_and_taken():
    frames = [Image.new("RGB", (50, 40), (shade, 0, 0)) for shade in range(30)]
    body = pillow("GIF", frames[0], save_all=True, append_images=frames[1:])
    picture = ImageProcessor(ImageOptions(max_pixels=2000))(body, None, None)
    assert picture.status == "ok"
    assert np.asarray(Image.open(io.BytesIO(picture.jpeg))).max() < 5


# The pixels.


def test_what_cannot_be_decoded_is_undecodable(process):
    assert refused(process(CUT_OFF, None, None)) == "undecodable"
    assert refused(process(png_of(50, 50), None, None)) == "undecodable"


def test_a_jpeg_of_endless_scans_is_not_decoded(monkeypatch):
    body = IMAGES["progressive"]
    scan = body[body.rindex(b"\xff\xda") :][:12]
    processor = ImageProcessor(ImageOptions())
    monkeypatch.setattr(processor, "_resize", lambda *_: pytest.fail("it was decoded"))
    assert refused(processor(body[:-2] + scan * 1000 + b"\xff\xd9", None, None)) == "undecodable"


def test_nothing_is_printed_and_output_comes_back(process, capfd):
    process(CUT_OFF, None, FACE)
    threads = [threading.Thread(target=process, args=(JPEG, None, FACE)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")


# Faces.


def test_what_is_in_a_box_is_blurred_and_the_rest_left(process):
    plain = np.asarray(Image.open(io.BytesIO(process(JPEG, None, None).jpeg)), int)
    blurred = np.asarray(Image.open(io.BytesIO(process(JPEG, None, FACE).jpeg)), int)
    assert np.abs(plain - blurred)[130:220, 110:200].mean() > 10
    assert np.abs(plain - blurred)[:, 400:].max() < 8


def test_faces_are_left_when_asked():
    processor = ImageProcessor(ImageOptions(blur_faces=False))
    assert sizes_of(processor(JPEG, None, FACE)) == theirs(JPEG)
    assert sizes_of(processor(JPEG, None, [[math.nan]])) == theirs(JPEG)


def test_boxes_that_hang_over_the_edge_are_taken_as_img2dataset_takes_them(process):
    boxes = [[-0.1, 0.5, 0.2, 1.3], [0.9, -0.4, 1.6, 0.1]]
    assert sizes_of(process(JPEG, None, boxes)) == theirs(JPEG, boxes)


def test_a_box_with_its_corners_swapped_is_blurred(process):
    assert sizes_of(process(JPEG, None, [[0.4, 0.6, 0.2, 0.3]])) == theirs(JPEG, FACE)


def test_no_box_is_no_face():
    assert face_boxes(None) is None
    assert face_boxes([]) is None


MALFORMED = {
    "nan": [[0.1, 0.1, math.nan, 0.2]],
    "infinite": [[0.1, 0.1, math.inf, 0.2]],
    "huge": [[0.1, 0.1, 1e300, 0.2]],
    "pixels": [[120.0, 80.0, 200.0, 160.0]],
    "three numbers": [[0.1, 0.2, 0.3]],
    "five numbers": [[0.1, 0.2, 0.3, 0.4, 0.5]],
    "none": [[]],
    "a null": [[0.1, None, 0.3, 0.4]],
    "a null box": [None],
    "one good, one bad": [*FACE, [0.1, 0.1, -1e9, 0.2]],
    "too many": FACE * 1001,
}


@pytest.mark.parametrize("boxes", MALFORMED.values(), ids=MALFORMED.keys())
def test_an_image_whose_faces_are_unknown_is_not_published(process, boxes):
    assert refused(process(JPEG, None, boxes)) == "undecodable"


def test_the_worst_boxes_that_are_taken_take_no_time(process):
    process(JPEG, None, FACE)
    start = time.perf_counter()
    assert process(JPEG, None, [[-1.0, -1.0, 2.0, 2.0]] * 1000).status == "ok"
    assert time.perf_counter() - start < 3


# Habits.


def test_options_travel_to_workers():
    options = ImageOptions(size_px=64, accept_changed=True)
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.size_px = 3


def test_importing_the_module_imports_neither_opencv_nor_img2dataset():
    code = "import sys, pipeline.images; assert not {'cv2', 'img2dataset', 'albumentations'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
