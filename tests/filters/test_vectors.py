"""Files of vectors: .npy, DataComp's .pt, globs of them; and a clear sentence for anything else."""

import hashlib
import pathlib
import sys

import numpy as np
import pytest

from filters.vectors import Vectors, sha256
from metadata.errors import CurateError

VALUES = np.random.default_rng(0).standard_normal((20, 768)).astype(np.float32)


def read(path: object) -> np.ndarray:
    found = Vectors(str(path), "l14_img", "step: kind")
    values = np.concatenate(list(found.blocks()))
    assert values.dtype == np.float32
    assert len(found) == len(values)
    return values


def refused(path: object) -> str:
    with pytest.raises(CurateError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"step: kind {path}")
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: pathlib.Path, dtype: type, order: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(VALUES.astype(dtype), order=order))
    assert np.array_equal(read(tmp_path / "a.npy"), VALUES.astype(dtype).astype(np.float32))


def test_several_files_in_the_order_of_their_names(tmp_path: pathlib.Path) -> None:
    for number in (2, 0, 1):
        np.save(tmp_path / f"part{number}.npy", VALUES[5 * number : 5 * number + 5])
    assert np.array_equal(read(tmp_path / "part*.npy"), VALUES[:15])
    hashes = [hashlib.sha256((tmp_path / f"part{n}.npy").read_bytes()).hexdigest() for n in range(3)]
    assert sha256(str(tmp_path / "part*.npy"), "l14_img", "x") == hashes
    assert sha256(str(tmp_path / "part1.npy"), "l14_img", "x") == hashes[1:2]
    np.save(tmp_path / "odd [1].npy", VALUES)
    assert np.array_equal(read(tmp_path / "odd [1].npy"), VALUES)


def test_what_is_no_npy_of_vectors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.npy"
    bad = VALUES.copy()
    bad[7, 3] = np.nan
    zero, infinite = VALUES.copy(), VALUES.copy()
    zero[4], infinite[19, 767] = 0, np.inf
    for values, told in [
        (VALUES[0], "is float32 of the shape (768,), but float16 or float32 of the shape (vectors, 768) is needed. "),
        (VALUES[:0], "is float32 of the shape (0, 768), but"),
        (VALUES.astype(np.float64), "is float64 of the shape (20, 768), but"),
        (VALUES.astype(">f4"), "is >f4 of the shape"),
        (VALUES[:, :512], "has vectors of 512 numbers, but l14_img has 768: it is of another model. Take the one that"),
        (bad, "vector 7 is all zeros, or has a NaN or an infinity, but each must have a length. Leave it out."),
        (zero, "vector 4 is all zeros, or"),
        (infinite, "vector 19 is all zeros, or"),
    ]:  # fmt: skip
        np.save(path, values)
        assert told in refused(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    assert "can't be read as .npy (" in refused(path)
    data = (np.save(path, VALUES), path.read_bytes())[1]
    for content in (b"", b"text", b"PK\3\4", data[:-1], data[:40], data.replace(b"(20, 768)", b"(9**9, 9)"),
                    data.replace(b"(20, 768)", b"((20, 768")):  # fmt: skip
        path.write_bytes(content)
        assert "can't be read as .npy (" in refused(path)
    np.savez(tmp_path / "b.npy.npz", VALUES)
    assert "can't be read as .npy (an npz, an archive of several arrays), but" in refused(tmp_path / "b.npy.npz")


def test_centroids_of_another_model_are_refused_by_what_was_written_with_them(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "c.npy", VALUES)
    known = ['{"embedding": "l14_img"}', '{"embedding": "l14_txt"}']
    for text in (*known, '{"embedding": null}', '{"embedding": "clip"}', "", "[]", "[" * 100_000):
        (tmp_path / "c.json").write_text(text)
        assert len(read(tmp_path / "c.npy")) == len(VALUES)
    (tmp_path / "c.json").write_text('{"embedding": "dfn_img"}')
    assert f"is of dfn_img, as {tmp_path}/c.json says, but l14_img is compared" in refused(tmp_path / "c.npy")


def test_files_that_are_not_there(tmp_path: pathlib.Path) -> None:
    for name in ("none.npy", "none*.pt"):
        told = f"step: kind {tmp_path / name}: there is no such file, but every worker needs it. Check the path."
        assert refused(tmp_path / name) == told
        with pytest.raises(CurateError, match="there is no such file"):
            sha256(str(tmp_path / name), "l14_img", "step: kind")
    (tmp_path / "folder").mkdir()
    assert "folder: can't be read as .npy ([Errno 21] Is a directory" in refused(tmp_path / "folder")


def test_without_torch_a_pt_says_what_to_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(CurateError, match=r"a\.pt: the package torch is not installed, but a \.pt is") as error:
        read(tmp_path / "a.pt")
    assert str(error.value).endswith("Save the vectors as .npy, or run: pip install 'clip-curate[train]'")


@pytest.mark.slow
def test_pt(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    tensor = torch.from_numpy(VALUES)
    for content in (tensor, tensor.T.contiguous().T, {"image_features": tensor, "labels": [1]}, VALUES):
        torch.save(content, path)
        assert np.array_equal(read(path), VALUES)
    torch.save(torch._neg_view(tensor), path)
    assert np.array_equal(read(path), -VALUES)
    torch.save(torch.nn.Parameter(tensor.half()), path)
    assert np.array_equal(read(path), VALUES.astype(np.float16).astype(np.float32))
    for content, told in [
        (tensor.bfloat16(), "holds torch.bfloat16, but a tensor of float16 or float32 is needed. Save it so."),
        ({"features": tensor}, "holds NoneType, but"),
        ([tensor], "holds list, but"),
        (tensor.to_sparse(), "holds a tensor that is no array ("),
        (tensor.to_sparse_csr(), "but a dense one with its values is needed. Save it so, or as .npy."),
        (tensor.to("meta"), "holds a tensor that is no array ("),
        (np.array([{}, 1], object), "can't be read as a tensor ("),
        (pathlib.Path("x"), "can't be read as a tensor ("),
        (tensor[:, :512], "has vectors of 512 numbers"),
        (VALUES.astype(np.float64), "can't be read as a tensor ("),
    ]:
        torch.save(content, path)
        assert told in refused(path)
    data = (torch.save(tensor, path), path.read_bytes())[1]
    for content in (b"", b"text", data[:-1], data[: len(data) // 2], b"\x80\x02c__builtin__\nprint\n(S'x'\ntR."):
        path.write_bytes(content)
        assert "can't be read as a tensor (" in refused(path)
