"""Pseudo-LiDAR: an image's depth map as a point cloud in the velodyne frame, and folders of such clouds.

Wang et al., Pseudo-LiDAR from visual depth estimation, CVPR 2019 (arXiv 1812.07179).
"""

from __future__ import annotations

import inspect
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdnb.datasets.kitti import RECIPE, Frame, KittiObject, read_recipe, write_points
from kdnb.datasets.kitti_calib import Calibration
from kdnb.errors import InputError
from kdnb.files import atomic_path, atomic_write
from kdnb.world.lidar import BOTTOM, TOP

MAX_HEIGHT = 1.0  # metres; drop points more than 1 m above the sensor, as the original does
COLUMNS = 2048  # azimuth steps of a full turn, 0.176 degrees as the HDL-64E at 10 Hz


def pseudo_points(
    depth: np.ndarray,
    image: np.ndarray,
    calibration: Calibration,
    sampling: str = "random",
    share: float = 0.1,
    beams: int = 64,
    intensity: str = "constant",
    seed: int = 0,
) -> np.ndarray:
    """The pixels of a depth map as points, through the inverses of P2 (with its offsets), R0 and Tr; then subsampled.

    Pixels of depth 0 and points behind the sensor (x < 0) or 1 m and more above it are left out.

    Args:
        depth: (H, W), z in metres, 0 where unknown.
        image: uint8 (H, W, 3).
        sampling: "random" keeps a ``share`` of the points, as the original does; "beams" keeps those that a LiDAR with
            ``beams`` beams would hit; "all" keeps all.
        intensity: "constant" is 0.5, as in the original; "grey" is the pixel's grey value, 0..1.
        seed: of the random sampling.

    Returns:
        float32 (N, 4): x, y, z in the velodyne frame (metres), intensity.

    Raises:
        InputError: depth and image of different sizes, an unknown sampling or intensity.
    """
    check_choice("sampling", sampling, ("random", "beams", "all"))
    check_choice("intensity", intensity, ("constant", "grey"))
    if depth.shape != image.shape[:2]:
        raise InputError(f"depth is {depth.shape}, expected {image.shape[:2]} as its image")
    v, u = np.nonzero(depth > 0)
    xyz = calibration.rect_to_lidar(calibration.image_to_rect(u, v, depth[v, u]))
    keep = np.flatnonzero((xyz[:, 2] < MAX_HEIGHT) & (xyz[:, 0] >= 0))
    if sampling == "random":
        rng = np.random.default_rng(seed)
        keep = np.sort(rng.choice(keep, round(share * len(keep)), replace=False))
    elif sampling == "beams":
        keep = keep[beam_indices(xyz[keep], beams)]
    values = np.full(len(keep), 0.5) if intensity == "constant" else grey(image[v[keep], u[keep]])
    return np.concatenate([xyz[keep], values[:, None]], 1).astype(np.float32)


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError for a value that is not one of ``choices``."""
    if value not in choices:
        raise InputError(f"{what} is {value!r}, expected one of {', '.join(choices)}")


def grey(colours: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 → (N,) luma, 0..1 (ITU-R BT.601)."""
    return colours @ np.array([0.299, 0.587, 0.114]) / 255


def beam_indices(xyz: np.ndarray, beams: int = 64, columns: int = COLUMNS) -> np.ndarray:
    """Indices of the points (N, 3) that a spinning LiDAR would hit: for each beam and azimuth step, the one nearest to
    the beam's elevation. Beams are evenly spaced over the elevations of the HDL-64E; points outside are left out."""
    elevation = np.degrees(np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])))
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi) + 0.5
    row = (TOP - elevation) / (TOP - BOTTOM) * (beams - 1)
    beam, column = np.rint(row).astype(int), (azimuth * columns).astype(int) % columns
    inside = np.flatnonzero((beam >= 0) & (beam < beams))
    cell, off = (beam * columns + column)[inside], np.abs(row - beam)[inside]
    order = np.lexsort([off, cell])
    first = np.ones(len(order), bool)
    first[1:] = np.diff(cell[order]) > 0
    return np.sort(inside[order[first]])


# --- folders ----------------------------------------------------------------------------------------------------


def write_pseudo_lidar(
    frames: KittiObject, out: str | Path, depth: Callable, points: str = "pseudo", **how: Any
) -> Path:
    """Write the pseudo-LiDAR of all frames. The result is read as a KITTI root, ``KittiObject(out, split,
    points=points)``, or as other clouds of the frames' own root, ``KittiObject(root, split, points=Path(out))``.

    The frame's label file, calibration and image (a link if the system has links) are written before its cloud, each
    atomically. After a kill, call it again: it continues with the first frame without a cloud.

    Args:
        depth: (image uint8 (H, W, 3), frame's name) → z (H, W) in metres; a ``kdnb.models.depth.DepthModel``, or any
            function. Its ``name``, if it has one, and ``how`` are written beside the clouds.
        points: name of the clouds' folder beside image_2/; "velodyne" where another tool is to read them.
        how: of ``pseudo_points``. The seed is combined with the frame's name.

    Returns:
        ``out``.

    Raises:
        InputError: a frame in training/ without a label file (``KittiObject.annotated`` leaves those out); existing
            clouds of other settings; and as the depth model and ``pseudo_points`` do.
    """
    out = Path(out)
    check_recipe(out, getattr(depth, "name", ""), points, how)
    for frame in tqdm(frames, f"pseudo-LiDAR of {frames.split}", unit="image", mininterval=0.5, leave=False):
        cloud = out / frames.side / points / f"{frame.name}.bin"
        if cloud.exists():
            continue
        copy_annotation(frame, frames.root, out)
        cloud.parent.mkdir(parents=True, exist_ok=True)
        image = frame.image()
        seed = zlib.crc32(f"{how.get('seed', 0)} {frame.name}".encode())
        write_points(cloud, pseudo_points(depth(image, frame.name), image, frame.calibration, **{**how, "seed": seed}))
    (out / "ImageSets").mkdir(exist_ok=True)
    atomic_write(out / "ImageSets" / f"{frames.split}.txt", "".join(f"{name}\n" for name in frames.names))
    return out


def check_recipe(out: Path, depth: str, points: str, how: dict) -> None:
    """Write the settings of the clouds into their folder; raise InputError if it has clouds of other settings or a file
    of settings that cannot be read.

    What ``how`` leaves out is written with its default, because a later version may change the default.
    """
    parameters = inspect.signature(pseudo_points).parameters.values()
    recipe = {p.name: p.default for p in parameters if p.default is not p.empty}
    for key in how:
        check_choice("setting of pseudo_points", key, tuple(recipe))
    recipe |= {"depth": depth, "points": points, **how}
    path = out / RECIPE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(recipe, indent=1, sort_keys=True) + "\n")
        return
    written = read_recipe(path)
    for key in sorted({*written, *recipe}):
        if key not in written or key not in recipe or written[key] != recipe[key]:
            made, wanted = (repr(one[key]) if key in one else "left open" for one in (written, recipe))
            raise InputError(
                f"{path}: the clouds here were made with {key} {made}, expected {wanted}; choose a new folder"
            )


def copy_annotation(frame: Frame, root: Path, out: Path) -> None:
    """Copy a frame's label and calibration and link its image, at the same paths in ``out`` as in ``root``."""
    labels = [frame.label_path] if frame.label_path.exists() else []
    if not labels and frame.label_path.parent.name == "label_2":
        raise InputError(
            f"{frame.label_path}: no such file, expected the labels of frame {frame.name}: a detector "
            "would learn from its cloud that the street is empty"
        )
    for path in (*labels, frame.calibration_path, frame.image_path):
        target = out / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            link_or_copy(path, target, link=path == frame.image_path)


def link_or_copy(source: Path, target: Path, link: bool) -> None:
    """Make ``target`` a link to ``source`` if ``link`` is true and the system has links, else a copy; atomically."""
    with atomic_path(target) as part:
        try:
            if not link:
                raise OSError
            part.symlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, part)
