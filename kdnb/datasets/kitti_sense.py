"""Whether a KITTI frame makes sense: clouds, labels and images that have the right form but cannot be what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kdnb.datasets.kitti_boxes import Box, box_in_image, boxes_in_lidar, clip_box
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_labels import KittiLabel

FARTHEST = 250.0  # metres; a Velodyne reaches 120
LOW, HIGH = -60.0, 60.0  # metres of z in a cloud
STRAY = 0.01  # share of the points that may lie anywhere
LEAST_OVERLAP = 0.3  # of a frame's 2D boxes with their projected 3D boxes, in the median; real frames have 0.8 to 0.99
TRUNCATED = 0.5  # above it, the 2D box says little about the 3D box
EDGE = 1.0  # pixels by which a 2D box may reach beyond the image
MIDDLE = {"width": (0.3, 0.7), "height": (0.1, 0.9)}  # where the optical axis may meet the image, as shares of it

# what people save instead of x, y, z, intensity as float32
LAYOUTS = (
    ("float64", "<f8", 4),
    ("five float32 a point", "<f4", 5),
    ("six float32 a point", "<f4", 6),
    ("five float64 a point", "<f8", 5),
    ("three float32 a point", "<f4", 3),
    ("three float64 a point", "<f8", 3),
)


# --- clouds -----------------------------------------------------------------------------------------------------


def cloud_faults(path: Path, points: np.ndarray) -> list[str]:
    """Faults of a cloud (N, 4): points out of a LiDAR's range, an intensity outside 0..1; what the file may hold."""
    if not len(points):
        return []
    far = _share(np.abs(points[:, :3]).max(1) > FARTHEST)
    strange = _share((points[:, 3] < -1e-3) | (points[:, 3] > 1 + 1e-3))
    if far > STRAY:
        found = f"{100 * far:.0f} % of the points are more than {FARTHEST:g} m away"
        return [f"{path}: {found}, expected x, y, z in metres and intensity as float32{looks_like(path.read_bytes())}"]
    if strange > STRAY:
        least, most = points[:, 3].min(), points[:, 3].max()
        bytes_of_255 = least >= 0 and 1.5 < most <= 255 and not _is_shifted(points)
        hint = ": divide it by 255" if bytes_of_255 else looks_like(path.read_bytes())
        found = f"the intensity goes from {least:.3g} to {most:.3g}"
        return [f"{path}: {found} ({100 * strange:.0f} % outside 0..1), expected 0..1{hint}"]
    return []


def _is_shifted(points):
    """Whether z is none, as where columns move from point to point in a file of five numbers a point."""
    return bool((points[:, 2] > HIGH).any() or (points[:, 2] < LOW).any())


def looks_like(content: bytes) -> str:
    """'; it looks like float64' for the first of LAYOUTS in which the bytes make a plausible cloud, or ''."""
    for name, kind, columns in LAYOUTS:
        if content and len(content) % (np.dtype(kind).itemsize * columns) == 0:
            points = np.frombuffer(content, kind).reshape(-1, columns)
            if _is_plausible(points):
                return f"; it looks like {name}: write x, y, z, intensity as float32"
    return ""


def _is_plausible(points):
    finite = np.isfinite(points).all(1)
    if not finite.all():
        return False
    xyz = points[:, :3]
    odd = (np.abs(xyz).max(1) > FARTHEST) | (xyz[:, 2] < LOW) | (xyz[:, 2] > HIGH)
    tiny = np.abs(xyz).max(1) < 1e-3  # what float64 read as float32 often is
    if points.shape[1] > 3:
        odd |= (points[:, 3] < 0) | (points[:, 3] > 255)
    flat = np.ptp(xyz[:, :2], axis=0).max() <= np.ptp(xyz[:, 2])  # a street is wider than high
    return _share(odd | tiny) <= STRAY and not (flat and len(xyz) > 100)


def _share(mask):
    return float(np.mean(mask))


# --- images -----------------------------------------------------------------------------------------------------


def image_faults(path: Path, size: tuple[int, int], calibration: Calibration) -> list[str]:
    """A fault if the optical axis of P2 meets the image (``size``: width, height) far from its middle."""
    for (name, (low, high)), pixels, centre in zip(MIDDLE.items(), size, calibration.P2[:2, 2], strict=True):
        share = centre / (pixels * calibration.P2[2, 2]) if calibration.P2[2, 2] else math.nan
        if not low <= share <= high:
            found = f"{size[0]} x {size[1]} pixels, but P2 has its centre at {share:.2f} of the {name}"
            return [f"{path}: {found}, expected {low:g} to {high:g}: an image of the size that was calibrated"]
    return []


# --- labels -----------------------------------------------------------------------------------------------------


def label_faults(
    path: Path, labels: dict[int, KittiLabel], calibration: Calibration | None, size: tuple[int, int] | None
) -> list[str]:
    """Faults of a frame's labels (``{line: label}``), one a kind: angles in degrees, 2D boxes outside the image, 2D
    boxes that do not lie where the 3D boxes are."""
    objects = {line: label for line, label in labels.items() if label.type != "DontCare"}
    faults = _angle_faults(path, objects)
    outside = _outside(path, objects, size) if size else []
    faults += outside
    if calibration is not None and not outside:
        faults += _overlap_faults(path, objects, calibration, size)
    return faults


def _angle_faults(path, objects):
    wrong = [
        (line, name, getattr(label, name))
        for line, label in objects.items()
        for name in ("alpha", "rotation_y")
        if abs(getattr(label, name)) > 2 * math.pi and getattr(label, name) != -10  # -10: not estimated
    ]
    if not wrong:
        return []
    line, name, value = wrong[0]
    hint = "; these look like degrees" if all(abs(angle) <= 360 for _, _, angle in wrong) else ""
    return [f"{path}:{line}: {name} is {value:g}{_and_more(wrong)}, expected radians, -2 pi to 2 pi{hint}"]


def _outside(path, objects, size):
    limits = (size[0] + EDGE - 1, size[1] + EDGE - 1)
    wrong = [
        (line, label.bbox)
        for line, label in objects.items()
        if min(label.bbox[:2]) < -EDGE or label.bbox[2] > limits[0] or label.bbox[3] > limits[1]
    ]
    if not wrong:
        return []
    line, box = wrong[0]
    found = f"box {' '.join(f'{value:g}' for value in box)}{_and_more(wrong)} reaches outside"
    return [f"{path}:{line}: {found}, expected it inside the image of {size[0]} x {size[1]} pixels"]


def _overlap_faults(path, objects, calibration, size):
    """2D boxes are drawn around what the projected 3D box shows, so they overlap where both are in the same frame."""
    chosen = {
        line: label
        for line, label in objects.items()
        if min(label.height, label.width, label.length) > 0 and label.x != -1000 and label.truncated <= TRUNCATED
    }
    if not chosen:
        return []
    boxes = boxes_in_lidar(list(chosen.values()), calibration)
    overlaps = [
        _overlap(label.bbox, box_in_image(box, calibration), size)
        for label, box in zip(chosen.values(), boxes, strict=True)
    ]
    median = float(np.median(overlaps))
    if median >= LEAST_OVERLAP:
        return []
    line = list(chosen)[int(np.argmin(overlaps))]
    hint = "another frame's calibration or image?"
    if _in_velodyne(list(chosen.values()), calibration):
        hint = "x, y, z look like those of the velodyne frame; labels are in the rect camera frame"
    found = f"the 2D box and the projected 3D box overlap by {min(overlaps):.2f}"
    if len(chosen) > 1:
        found += f" (median of {len(chosen)} objects {median:.2f})"
    return [f"{path}:{line}: {found}, expected {LEAST_OVERLAP:g} or more, as a rule 0.8: {hint}"]


def _overlap(box: Box, projected: Box | None, size: tuple[int, int] | None) -> float:
    """IoU of a 2D box with the part in the image of the box around a projection; 0 for one behind the camera."""
    if projected is not None and size is not None:
        projected = clip_box(projected, size)
    if projected is None:
        return 0.0
    wide = min(box[2], projected[2]) - max(box[0], projected[0])
    high = min(box[3], projected[3]) - max(box[1], projected[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, projected))
    return shared / (areas - shared) if areas > shared else 0.0


def _in_velodyne(labels, calibration):
    """Whether most positions, taken as velodyne points, fall on their own 2D boxes (twice as large as they are)."""
    uv, _ = calibration.lidar_to_image(np.array([(label.x, label.y, label.z) for label in labels]))
    boxes = np.array([label.bbox for label in labels])
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return bool(np.mean((np.abs(uv - centre) <= half).all(1)) > 0.5)


def _and_more(wrong):
    return f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
