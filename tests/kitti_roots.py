"""What tests need to write a KITTI root by hand."""

from pathlib import Path

from kdnb.datasets.kitti_calib import KEYS, Calibration


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the official text file, 13 significant digits."""
    rows = [(key, getattr(calibration, name).ravel()) for key, name, _ in KEYS]
    lines = [f"{key}: " + " ".join(f"{value:.12e}" for value in values) for key, values in rows]
    path.write_text("\n".join([*lines, "", ""]))
