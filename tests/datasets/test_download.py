"""Download against a small server on this machine, unpack against archives made to do harm."""

import hashlib
import io
import os
import socket
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from local_server import QuietHandler, serving

from kdnb.datasets import download as download_module
from kdnb.datasets.download import download, unpack
from kdnb.errors import InputError

DATA = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(DATA).hexdigest()
SHA = hashlib.sha256(DATA).hexdigest()


class Handler(QuietHandler):
    """Serves DATA: /ranges honours Range, /plain does not, /cut closes the connection half way, else 404."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if self.path not in ("/ranges", "/plain", "/cut"):
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/plain" else 0
        if start >= len(DATA):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        body = DATA[start:]
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Handler) as server:
        yield server


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- download


@pytest.mark.parametrize("checksum", [MD5, SHA, SHA.upper()])
def test_download_writes_the_file_once(server, tmp_path, checksum):
    target = tmp_path / "new" / "data.tar"
    for _ in range(2):
        assert download(server.url + "/ranges", target, checksum) == target
    assert target.read_bytes() == DATA and os.listdir(target.parent) == ["data.tar"]
    assert server.requests == [("/ranges", None)]


@pytest.mark.parametrize(("path", "ranges"), [("/ranges", "bytes=1000-"), ("/plain", "bytes=1000-")])
def test_download_resumes_or_starts_over_where_it_cannot(server, tmp_path, path, ranges):
    (tmp_path / "data.part").write_bytes(DATA[:1000])
    assert download(server.url + path, tmp_path / "data", MD5).read_bytes() == DATA
    assert server.requests == [(path, ranges)]


def test_download_finishes_a_part_that_is_already_whole(server, tmp_path):
    (tmp_path / "data.part").write_bytes(DATA)
    assert download(server.url + "/ranges", tmp_path / "data", MD5).read_bytes() == DATA


def test_download_drops_a_part_that_is_too_long(server, tmp_path):
    (tmp_path / "data.part").write_bytes(DATA + b"more")
    assert download(server.url + "/ranges", tmp_path / "data", MD5).read_bytes() == DATA


def test_connection_lost_keeps_the_part_and_the_next_call_resumes(server, tmp_path):
    message = error_of(lambda: download(server.url + "/cut", tmp_path / "data", MD5))
    assert "Run again to resume data.part" in message and not (tmp_path / "data").exists()
    kept = (tmp_path / "data.part").stat().st_size
    assert kept == len(DATA) // 2
    assert download(server.url + "/ranges", tmp_path / "data", MD5).read_bytes() == DATA
    assert server.requests[-1] == ("/ranges", f"bytes={kept}-")


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    message = error_of(lambda: download(server.url + "/plain", tmp_path / "data", "0" * 32))
    assert MD5 in message and "0" * 32 in message and os.listdir(tmp_path) == []


def test_corrupt_part_fails_the_checksum(server, tmp_path):
    (tmp_path / "data.part").write_bytes(b"x" * 1000)
    assert "checksum is" in error_of(lambda: download(server.url + "/ranges", tmp_path / "data", SHA))
    assert download(server.url + "/ranges", tmp_path / "data", SHA).read_bytes() == DATA


def test_not_found_no_network_and_odd_checksum(server, tmp_path):
    assert "404" in error_of(lambda: download(server.url + "/nothing", tmp_path / "data", MD5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data"
    assert "is there a network?" in error_of(lambda: download(url, tmp_path / "data", MD5))
    assert "expected 32 (MD5) or 64" in error_of(lambda: download(server.url + "/plain", tmp_path / "data", "abc"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_named(server, tmp_path):
    (tmp_path / "data.part").symlink_to("/dev/full")
    assert "the disk is full" in error_of(lambda: download(server.url + "/plain", tmp_path / "data", MD5))


# ---------------------------------------------------------------- unpack


def tar_of(path, members, mode="w"):
    """``members``: list of (name, content or TarInfo fields)."""
    with tarfile.open(path, mode) as box:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                box.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                box.addfile(info)
    return path


def zip_of(path, members):
    """``members``: list of (name, content, file type bits)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content, kind in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            box.writestr(info, content)
    return path


def link(target):
    return {"type": tarfile.SYMTYPE, "linkname": target}


GOOD = [
    ("a/one.txt", b"one"),
    ("a/b/two.txt", b"two" * 5000),
    ("a/link", link("b/two.txt")),
    ("a/hard", {"type": tarfile.LNKTYPE, "linkname": "a/one.txt"}),
]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_unpack_tar(tmp_path, mode):
    unpack(tar_of(tmp_path / "x.tar", GOOD, mode), tmp_path / "out")
    out = tmp_path / "out" / "a"
    assert (out / "one.txt").read_text() == (out / "hard").read_text() == "one"
    assert (out / "link").read_text() == "two" * 5000
    assert sorted(os.listdir(tmp_path)) == ["out", "x.tar"]


def test_unpack_zip_with_a_link_inside(tmp_path):
    members = [("d/one.txt", b"one", stat.S_IFREG), ("d/link", b"one.txt", stat.S_IFLNK), ("plain", b"p", 0)]
    unpack(zip_of(tmp_path / "x.zip", members), tmp_path / "out")
    assert (tmp_path / "out/d/link").read_text() == "one" and (tmp_path / "out/plain").read_text() == "p"


def test_unpack_merges_into_what_is_there(tmp_path):
    for name in ("first", "second"):
        members = [(f"VOC/{name}", name.encode()), ("VOC/both", name.encode())]
        unpack(tar_of(tmp_path / "x.tar", members), tmp_path / "o")
    assert {p.name: p.read_text() for p in (tmp_path / "o/VOC").iterdir()} == {
        "first": "first",
        "second": "second",
        "both": "second",
    }


BAD = {
    "absolute": [("/etc/kdnb", b"x")],
    "dots": [("../kdnb", b"x")],
    "dots_inside": [("a/../../kdnb", b"x")],
    "backslash": [("..\\kdnb", b"x")],
    "drive": [("C:/kdnb", b"x")],
    "link_up": [("link", link("../secret"))],
    "link_absolute": [("link", link("/etc/passwd"))],
    "link_absolute_broken": [("link", link("/nowhere/at/all"))],
    "hard_link_up": [("link", {"type": tarfile.LNKTYPE, "linkname": "../secret"})],
    "write_through_link": [("link", link("..")), ("link/kdnb", b"x")],
    "link_through_link": [("x/y/up", link("../..")), ("out", link("x/y/up/.."))],
    "link_before_link": [("out", link("x/y/up/..")), ("x/y/up", link("../.."))],
    "device": [("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "pipe": [("pipe", {"type": tarfile.FIFOTYPE})],
}


@pytest.mark.parametrize("members", BAD.values(), ids=BAD.keys())
def test_harmful_tar_is_refused_and_leaves_nothing(tmp_path, members):
    (tmp_path / "secret").write_text("secret")
    archive = tar_of(tmp_path / "x.tar", [("good", b"fine"), *members])
    message = error_of(lambda: unpack(archive, tmp_path / "out"))
    assert "x.tar" in message and any(word in message for word in ("refused", "collides", "device or pipe"))
    assert sorted(os.listdir(tmp_path)) == ["secret", "x.tar"]
    assert not (tmp_path.parent / "kdnb").exists()


BAD_ZIP = [("../kdnb", b"x", stat.S_IFREG), ("/kdnb", b"x", 0), ("l", b"../x", stat.S_IFLNK), ("p", b"", stat.S_IFIFO)]


@pytest.mark.parametrize("member", BAD_ZIP)
def test_harmful_zip_is_refused(tmp_path, member):
    archive = zip_of(tmp_path / "x.zip", [("good", b"fine", 0), member])
    assert "x.zip" in error_of(lambda: unpack(archive, tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_truncated_archive_at_any_length(tmp_path, kind):
    rng_like = hashlib.sha512(b"kdnb").digest() * 60
    path = tmp_path / "x"
    if kind == "zip":
        zip_of(path, [(f"{i}", rng_like, 0) for i in range(3)])
    else:
        tar_of(path, [(f"{i}", rng_like) for i in range(3)], kind)
    whole = path.read_bytes()
    content = 3 * (512 + 4096) if kind == "w" else len(whole) - 1  # a plain tar ends in padding that nobody misses
    for length in (1, 100, 512, 1000, content // 2, 4608, 9216, content - 1, content):
        path.write_bytes(whole[: min(length, content)])
        assert "x: " in error_of(lambda: unpack(path, tmp_path / "out")), length
    assert os.listdir(tmp_path) == ["x"]


def test_no_archive_at_all(tmp_path):
    assert "no such archive" in error_of(lambda: unpack(tmp_path / "none.tar", tmp_path / "out"))
    (tmp_path / "page.tar").write_text("<html>Sorry</html>" * 100)
    assert "expected a whole zip or tar" in error_of(lambda: unpack(tmp_path / "page.tar", tmp_path / "out"))


def test_damaged_zip_fails_its_own_checksum(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as box:
        box.writestr("a", b"hello" * 100)
    path.write_bytes(path.read_bytes().replace(b"hellohello", b"hellOhello", 1))
    assert "cannot be unpacked" in error_of(lambda: unpack(path, tmp_path / "out"))


def test_unpacking_stays_within_its_folder(tmp_path, monkeypatch):
    """Beside the folder there may be another disk, or no permission to write."""
    places, real = [], download_module.tempfile.mkdtemp
    monkeypatch.setattr(download_module.tempfile, "mkdtemp", lambda **how: places.append(how["dir"]) or real(**how))
    unpack(tar_of(tmp_path / "x.tar", GOOD), tmp_path / "out")
    assert places == [tmp_path / "out"] and sorted(os.listdir(tmp_path)) == ["out", "x.tar"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download_module.tempfile, "mkdtemp", refused)
    message = error_of(lambda: unpack(tar_of(tmp_path / "x.tar", GOOD), tmp_path / "out"))
    assert message.startswith(f"{tmp_path / 'out'}: cannot be") and "Permission denied" in message


def test_full_disk_while_unpacking(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = tar_of(tmp_path / "x.tar", GOOD)
    monkeypatch.setattr(download_module.shutil, "copyfileobj", full)
    assert "the disk is full" in error_of(lambda: unpack(archive, tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.tar"]
