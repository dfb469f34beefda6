"""A few frames of KITTI object, taken out of its makers' archives of 41 GB without downloading those."""

import hashlib
import io
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kdnb.datasets.download import BLOCK, TIMEOUT_S, disk_error, network_error, or_by_hand
from kdnb.datasets.kitti import HOME
from kdnb.errors import InputError
from kdnb.files import atomic_write

HOST = "https://s3.eu-central-1.amazonaws.com/avg-kitti"  # where the links of HOME lead
SUFFIXES = {"image_2": ".png", "velodyne": ".bin", "calib": ".txt", "label_2": ".txt"}  # folder: that of its files


class RemoteFile(io.RawIOBase):
    """A file on a server, read by Range requests: ``zipfile`` takes it, in an ``io.BufferedReader``, as a file.

    Raises InputError: no network, an HTTP error, a server or a proxy that gives no parts of files.
    """

    def __init__(self, url: str):
        super().__init__()
        self.url, self._position = url, 0
        _, span = self._get(0, 1)
        total = span.rpartition("/")[2]
        if not total.isdecimal():
            raise InputError(f"{url}: the server does not say how long the file is (Content-Range: {span!r})")
        self._size = int(total)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset`` from the start, the position or the end, and return the new position."""
        self._position = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` (writable bytes) from the position on; less only at the end. Returns the number of bytes."""
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        buffer[:count], _ = self._get(self._position, count)
        self._position += count
        return count

    def _get(self, start, count):
        """``count`` bytes from ``start`` on, and the Content-Range that came with them."""
        headers = {"User-Agent": "kdnb", "Range": f"bytes={start}-{start + count - 1}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT_S) as answer:
                span = answer.headers.get("Content-Range", "")
                if answer.status != 206 or not span.startswith(f"bytes {start}-"):
                    raise InputError(
                        f"{self.url}: the server answers {answer.status}, expected 206, a part of the file"
                    )
                content = answer.read()
        except (OSError, HTTPException) as error:
            raise network_error(self.url, error, "Run again") from None
        if len(content) != count:
            raise InputError(f"{self.url}: the server sent {len(content)} of {count} bytes; run again")
        return content, span


def download_kitti_sample(root: str | Path, frames: int = 10) -> Path:
    """Take the first ``frames`` of KITTI's training set out of its archives into ``root/training``; return ``root``.

    About 3 MB a frame: image, LiDAR, calibration and labels, in KITTI's own layout, without ImageSets. Files that exist
    are kept, so a second call resumes or does nothing. No checksum of them is published: they are not verified but
    for the CRC-32 in the archives, and one SHA-256 of all of them, in the order of their paths, is printed.
    Raises InputError, which ends with the way by hand, for a failed download and for an archive that is broken or lacks
    a file; files are written whole or not at all.
    """
    root = Path(root)
    archives = ", ".join(f"data_object_{folder}.zip" for folder in SUFFIXES)
    way = (
        f"open {HOME} in a browser (free registration), download {archives} and unpack them into {root}; "
        f"then run: kdnb data check kitti {root}"
    )
    members = {
        folder: [f"training/{folder}/{number:06d}{suffix}" for number in range(frames)]
        for folder, suffix in SUFFIXES.items()
    }
    with or_by_hand(way):
        for folder, names in members.items():
            _extract(f"{HOST}/data_object_{folder}.zip", root, names)
    paths = sorted(root / name for names in members.values() for name in names)
    digest = hashlib.sha256(usedforsecurity=False)
    for path in paths:
        digest.update(path.read_bytes())
    print(
        f"{root}: {len(paths)} files, not verified, no checksum of them is published; the SHA-256 of all, in the order "
        f"of their paths, is {digest.hexdigest()}"
    )
    return root


def _extract(url, root, members):
    """Write those ``members`` of the zip at ``url`` that are not below ``root`` yet."""
    missing = [name for name in members if not (root / name).is_file()]
    if not missing:
        return
    try:
        with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), BLOCK)) as box:
            for name in tqdm(missing, desc=url.rpartition("/")[2], unit="file", disable=None):
                content = box.read(name)
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(root / name, content)
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, KeyError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise InputError(f"{url}: {reason}, expected KITTI's archive with {missing[0]} in it") from None
    except OSError as error:
        raise disk_error(error, root) from None
