import io
import json
import os
import random
import tarfile

import pytest
import webdataset

from metadata.errors import CurateError
from pipeline import tars


def source(data: bytes, window: int = 8192) -> tars.Source:
    def read(at: int, length: int) -> bytes:
        return data[at : at + length]

    def read_into(at: int, buffer: memoryview) -> int:
        body = read(at, len(buffer))
        buffer[: len(body)] = body
        return len(body)

    return tars.Source("some.tar", len(data), read, read_into, window)


def contents(data: bytes, window: int = 8192) -> list[tuple[str, dict[str, bytes]]]:
    """Keys with their members' bytes, through the reader under test."""
    return [
        (sample.key, {e: data[m.data : m.data + m.size] for e, m in sample.members.items()})
        for sample in tars.samples(source(data, window))
    ]


def with_tarfile(files: list[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT, **info) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, body in files:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            for field, value in info.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(body))
    return out.getvalue()


def plain(files: list[tuple[str, bytes]]) -> bytes:
    """A tar as we write it."""
    parts = [tars.member_header(name, len(body)) + body + tars.padding(len(body)) for name, body in files]
    return b"".join(parts) + tars.END


FILES = [
    ("0001.jpg", b"x" * 700),
    ("0001.txt", "ein Hündchen 犬".encode()),
    ("0001.json", b"{}"),
    ("0002.jpg", b""),
    ("0002.txt", b"y" * 512),
]
SAMPLES = [("0001", {"jpg": FILES[0][1], "txt": FILES[1][1], "json": b"{}"}), ("0002", {"jpg": b"", "txt": b"y" * 512})]


class TestWriting:
    def test_python_reads_it(self):
        with tarfile.open(fileobj=io.BytesIO(plain(FILES)), mode="r:", errorlevel=2) as tar:
            members = tar.getmembers()
            assert [(m.name, tar.extractfile(m).read()) for m in members] == FILES
            about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members}
            assert about == {(0, 0, 0, "", "", 0o644, b"0")}

    def test_webdataset_reads_it(self, tmp_path):
        path = tmp_path / "a.tar"
        path.write_bytes(plain(FILES))
        found = list(webdataset.WebDataset(str(path), shardshuffle=False))
        assert [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in found] == SAMPLES

    def test_it_is_tarfiles_own_header(self):
        for name, size in [("a.jpg", 0), ("é/日本.json", 123_456_789), ("x" * 100, 8**11 - 1), ("ÿ" * 50, 7)]:
            info = tarfile.TarInfo(name)
            info.size = size
            info.mode = 0o644
            ours = tars.member_header(name, size)
            assert ours[:148] == info.tobuf(tarfile.USTAR_FORMAT, "utf-8")[:148]
            read = tarfile.TarInfo.frombuf(ours, "utf-8", "strict").get_info()
            assert read | {"chksum": 0} == info.get_info()

    def test_padding_fills_a_block(self):
        assert [len(tars.padding(n)) for n in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("x" * 101, 0),
            ("é" * 51, 0),
            ("", 0),
            ("a\x00b", 0),
            ("a", -1),
            ("a", 8**11),
            ("\udc80", 1),
        ],
    )
    def test_what_does_not_fit_is_refused(self, name, size):
        with pytest.raises(ValueError):
            tars.member_header(name, size)


class TestReading:
    @pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    @pytest.mark.parametrize("mtime", [0, 1763712301, 1763712301.25])
    @pytest.mark.parametrize("window", [512, 1536, 8192, 1 << 20])
    def test_formats_and_windows(self, tar_format, mtime, window):
        if mtime != int(mtime) and tar_format != tarfile.PAX_FORMAT:
            mtime = int(mtime)
        assert contents(with_tarfile(FILES, tar_format, mtime=mtime), window) == SAMPLES

    def test_what_webdatasets_writer_writes(self, tmp_path):
        expected = []
        with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
            for n in range(300):
                body = random.Random(n).randbytes(n * 37)
                members = {"jpg": body, "json": json.dumps({"n": n}).encode(), "txt": b"a" * n}
                writer.write({"__key__": f"{n:05d}", **members})
                expected.append((f"{n:05d}", members))
        assert contents((tmp_path / "a.tar").read_bytes()) == expected

    @pytest.mark.parametrize(("extensions", "image"), [
        (["mask.png", "JPG", "txt"], "jpg"),
        (["webp", "jpeg", "png", "jpg"], "jpg"),
        (["webp", "jpeg", "png"], "png"),
        (["webp", "jpeg"], "jpeg"),
        (["mask.png", "gif", "webp"], "webp"),
        (["mask.png", "gif", "txt"], None),
    ])  # fmt: skip
    def test_a_samples_image_is_the_trainers(self, tmp_path, extensions, image):
        path = tmp_path / "a.tar"
        path.write_bytes(with_tarfile([(f"a.{extension}", extension.lower().encode()) for extension in extensions]))
        with tars.opened(str(path)) as tar:
            assert [sample.image for sample in tars.samples(tar)] == [image]
        samples = webdataset.WebDataset(str(path), shardshuffle=False).compose(
            webdataset.rename(image="jpg;png;jpeg;webp", handler=webdataset.ignore_and_continue)
        )
        assert [sample["image"].decode() for sample in samples] == ([image] if image else [])

    @pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_and_foreign_names(self, tar_format):
        names = ["d" * 90 + "/" + "k" * 200 + ".jpg", "日本/" * 40 + "犬.jpg", "ä.b.c.jpg"]
        assert [key for key, _ in contents(with_tarfile([(n, b"1") for n in names], tar_format))] == [
            "d" * 90 + "/" + "k" * 200,
            "日本/" * 40 + "犬",
            "ä",
        ]

    def test_ustar_prefix(self):
        name = "folder/" * 20 + "name.jpg"
        assert contents(with_tarfile([(name, b"1")], tarfile.USTAR_FORMAT)) == [(name[:-4], {"jpg": b"1"})]

    def test_pax_size_wins(self):
        header = with_tarfile([("a.jpg", b"12345")], pax_headers={"size": "5"})
        assert contents(header) == [("a", {"jpg": b"12345"})]
        lying = tars.member_header("a.jpg", 0)
        pax = tars.member_header("pax", 9)
        pax = pax[:156] + b"x" + pax[157:]
        lying = fixed(pax) + b"9 size=5\n" + bytes(503) + lying + b"12345" + tars.padding(5) + tars.END
        assert contents(lying) == [("a", {"jpg": b"12345"})]

    def test_base_256_size(self):
        header = bytearray(tars.member_header("a.jpg", 5))
        header[124:136] = b"\x80" + (5).to_bytes(11, "big")
        assert contents(fixed(header) + b"12345" + tars.padding(5) + tars.END) == [("a", {"jpg": b"12345"})]

    @pytest.mark.parametrize(
        "field",
        [
            b"       5 \x00\x00\x00",
            b"5\x00          ",
            b"000000000005",
            b"0000000005 \x00",
            b"5\x00garbage  \x00",
        ],
    )
    def test_ways_to_write_a_number(self, field):
        header = bytearray(tars.member_header("a.jpg", 5))
        header[124:136] = field
        assert contents(fixed(header) + b"12345" + tars.padding(5) + tars.END) == [("a", {"jpg": b"12345"})]

    def test_keys_are_webdatasets(self, tmp_path):
        names = [
            "a/b.c/d.seg.PNG",
            "a/b.c/d.jpg",
            "d.jpg",
            "./d.jpg",
            "x.y.z",
            "README",
            ".hidden",
            "q/.hid.jpg",
            "e.JPG",
            "a/b.c/d.jpg",
        ]
        path = tmp_path / "a.tar"
        path.write_bytes(plain([(n, n.encode()) for n in names]))
        theirs = webdataset.WebDataset(str(path), shardshuffle=False)
        found = [(sample["__key__"], {k for k in sample if k[0] != "_"}) for sample in theirs]
        ours = [(key, set(members)) for key, members in contents(path.read_bytes())]
        # webdataset's pattern reads a hidden file's name as its folder's; we give it to no sample.
        assert ours == [pair for pair in found if pair[0] != "q/"]

    def test_folders_are_passed_over_and_others_refused(self):
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(folder)
            tar.addfile(tarfile.TarInfo("a/b.jpg"))
        assert contents(out.getvalue()) == [("a/b", {"jpg": b""})]
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
            with pytest.raises(CurateError, match="byte 0: a member of kind"):
                contents(with_tarfile([("a.jpg", b"")], type=kind, linkname="/etc/passwd"))

    def test_ranges_hold_a_sample(self):
        data = with_tarfile(FILES, mtime=1.5)
        for sample in tars.samples(source(data)):
            part = data[sample.offset : sample.offset + sample.length] + tars.END
            assert contents(part) == [(key, members) for key, members in SAMPLES if key == sample.key]

    @pytest.mark.parametrize("window", [512, 1536, 8192])
    def test_what_was_read_ahead_is_not_read_again(self, window):
        data, reads = with_tarfile(FILES, mtime=1.5), []
        tar = source(data, window)
        read_at, tar.read_at = tar.read_at, lambda *place: reads.append(place) or read_at(*place)
        for sample in tars.samples(tar):
            for member in sample.members.values():
                before = len(reads)
                assert tar.read(member.data, member.size) == data[member.data : member.data + member.size]
                assert window < 8192 or len(reads) == before
        for at in range(0, len(data), 100):
            for length in (0, 1, 99, 600, len(data)):
                assert tar.read(at, length) == data[at : at + length]

    def test_empty_and_end_mark_of_any_length(self):
        assert contents(tars.END) == []
        assert contents(plain(FILES) + bytes(123_456)) == SAMPLES

    def test_addresses(self, tmp_path):
        path = tmp_path / "a.tar"
        path.write_bytes(plain(FILES))
        for address in (str(path), f"file://{path}"):
            with tars.opened(address) as tar:
                assert tar.size == path.stat().st_size
                assert [sample.key for sample in tars.samples(tar)] == ["0001", "0002"]
                assert tar.read(512, 3) == b"xxx"
                buffer = bytearray(tar.size + 10)
                assert tar.read_into(0, memoryview(buffer)) == tar.size
                assert bytes(buffer[: tar.size]) == path.read_bytes()

    @pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
    def test_small_members_are_read_from_the_disk_in_advance(self, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(os, "posix_fadvise", lambda _handle, start, length, _advice: asked.append((start, length)))
        for size, count in ((100_000, 120), (3_000_000, 4)):
            path = tmp_path / f"{size}.tar"
            path.write_bytes(plain([(f"{n:03d}.jpg", bytes(size)) for n in range(count)]))
            asked.clear()
            with tars.opened(str(path)) as tar:
                assert len(list(tars.samples(tar))) == count
            ends = [start + length for start, length in asked]
            if size == 100_000:  # all, and nothing twice
                assert [start for start, _ in asked] == [0, *ends[:-1]]
                assert ends[-1] >= path.stat().st_size
            else:  # no member is read for the next one's header
                assert [start for start, _ in asked] == [0, path.stat().st_size - len(tars.END)]


def fixed(header: bytes | bytearray) -> bytes:
    """The header with its checksum made right."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return bytes(header[:148]) + b"%06o\x00 " % total + bytes(header[156:])


class TestBrokenTars:
    @pytest.mark.parametrize(
        "data",
        [
            plain(FILES),
            with_tarfile(FILES, mtime=1.25),
            with_tarfile([("k" * 150 + ".jpg", b"1" * 600)], tarfile.GNU_FORMAT),
        ],
    )
    def test_every_cut_is_seen(self, data):
        whole = contents(data)
        end = len(data.rstrip(b"\x00"))
        end += -end % tars.BLOCK + len(tars.END)
        # The last members' bytes may be zeros of their own.
        last = list(tars.samples(source(data)))[-1]
        end = max(end, last.offset + last.length + len(tars.END))
        for cut in range(end):
            with pytest.raises(CurateError, match=r"some.tar, byte \d+: "):
                contents(data[:cut])
        for cut in (end, end + 1, end + 511, len(data)):  # behind the end mark are only zeros
            assert contents(data[:cut]) == whole

    @pytest.mark.parametrize("window", [512, 8192])
    def test_any_changed_byte_of_a_header_is_seen(self, window):
        data = with_tarfile(FILES, tarfile.PAX_FORMAT, mtime=1.25)
        headers = [m.header for s in tars.samples(source(data)) for m in s.members.values()]
        rng = random.Random(0)
        for header in headers:
            for block in (header, header + 1024):  # the PAX header, the member's own
                for _ in range(40):
                    at = block + rng.randrange(512)
                    bad = bytearray(data)
                    bad[at] ^= rng.randrange(1, 256)
                    try:
                        found = contents(bytes(bad), window)
                    except CurateError:
                        continue
                    # Only how the checksum is written can change, as from NUL to space.
                    assert block + 148 <= at < block + 156
                    assert found == SAMPLES

    def test_garbage(self):
        data = plain(FILES)
        second = data.index(b"0001.txt")
        cases = [
            (b"", 0),
            (b"x" * 100, 0),
            (random.Random(0).randbytes(5000), 0),
            (b"\x1f\x8b" + bytes(5000), 0),
            (bytes(512), 0),
            (data[:second] + b"garbage!" * 64 + data[second:], second),
            (data[:second] + bytes(512) + data[second:], second + 512),
            (data[:second] + bytes(1024) + data[second:], second + 1024),
            (data + data, len(data)),
            (data + bytes(5000) + b"\x01", len(data) + 5000),
        ]
        for bad, at in cases:
            with pytest.raises(CurateError, match=rf"^some.tar, byte {at}: .* but only whole and sound tars are"):
                contents(bad)

    @pytest.mark.parametrize(
        "field",
        [
            b"-0000000005\x00",
            b"0x000000005\x00",
            b"0000_000005\x00",
            b"00000000008\x00",
            b"\xff" * 12,
            b"\x80" + b"\xff" * 11,
        ],
    )
    def test_hostile_sizes(self, field):
        header = bytearray(tars.member_header("a.jpg", 5))
        header[124:136] = field
        with pytest.raises(CurateError, match=r"byte 0: (no tar header|the tar is cut off)"):
            contents(fixed(header) + bytes(2048))

    @pytest.mark.parametrize(
        "body",
        [
            b"12 path=a.jpg",
            b"99 path=a.jpg\n",
            b"x path=a.jpg\n",
            b"0 path=a.jpg\n",
            b"13 path a.jpg\n",
            b"11 size=-5\n",
            b"10 size=x\n",
            b"23 GNU.sparse.size=100\n",
            b"8 path=\xff\n",
            b"14 path=a.t\0x\n",
            b"\n",
            b"-5 path=a\n",
        ],
    )
    def test_hostile_pax_records(self, body):
        pax = bytearray(tars.member_header("pax", len(body)))
        pax[156:157] = b"x"
        with pytest.raises(CurateError, match="byte 0: "):
            contents(fixed(pax) + body + tars.padding(len(body)) + plain(FILES))

    def test_extended_headers_need_a_member(self):
        pax = bytearray(tars.member_header("pax", 9))
        for kind in b"xLK":
            pax[156] = kind
            with pytest.raises(CurateError, match="byte 1024: no tar header"):
                contents(fixed(pax) + b"9 path=a\n" + bytes(503) + tars.END)
        pax[156:157] = b"g"
        with pytest.raises(CurateError, match="global"):
            contents(fixed(pax) + b"9 path=a\n" + bytes(503) + plain(FILES))

    def test_a_large_extended_header(self):
        pax = bytearray(tars.member_header("pax", 50 << 20))
        pax[156:157] = b"x"
        with pytest.raises(CurateError, match="extended header of 52428800 bytes"):
            contents(fixed(pax) + bytes(50 << 20) + tars.END)

    def test_one_name_twice(self):
        with pytest.raises(CurateError, match=r"byte 512: '1.JPG' for the second time in one sample"):
            contents(plain([("1.jpg", b""), ("1.JPG", b"")]))

    def test_a_name_that_is_not_utf8(self):
        header = bytearray(tars.member_header("ab.jpg", 0))
        header[0:2] = b"\xff\xfe"
        with pytest.raises(CurateError, match="byte 0: "):
            contents(fixed(header) + tars.END)

    def test_a_name_with_a_nul(self):
        gnu = bytearray(tars.member_header("././@LongLink", 5))
        gnu[156:157] = b"L"
        with pytest.raises(CurateError, match=r"byte 0: a name with a NUL, 'a\.\\+x00t', but"):
            contents(fixed(gnu) + b"a.\0t\0" + bytes(507) + plain(FILES))

    def test_nothing_hostile_reaches_the_terminal(self):
        with pytest.raises(CurateError) as error:
            contents(plain([("\x1b[2Ja.jpg", b""), ("\x1b[2Ja.jpg", b"")]))
        assert str(error.value).isprintable()

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "0.tar")
        why = "^.*/0.tar: a pipe, a socket or a device, but tars are regular ones. Take it away.$"
        with pytest.raises(CurateError, match=why), tars.opened(f"{tmp_path}/0.tar"):
            pass
