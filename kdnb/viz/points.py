"""Point clouds: from above, over the image, as a figure to turn; and depth with its errors.

Velodyne frame: x forward, y left, z up, metres. From above, forward is up and left is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure

from kdnb.datasets.kitti_boxes import EDGES, corners
from kdnb.datasets.kitti_calib import Calibration, in_image
from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, arm_colour, arm_label

if TYPE_CHECKING:
    import plotly.graph_objects as go

DEPTHS = LogNorm(4, 60)  # metres; the logarithm, as an error of a metre means more nearby
COLOURS = "cividis"  # one lightness ramp that colour-blind readers see as others do (Nunez et al. 2018)
MOST = 18_000  # points that a browser turns smoothly


def draw_birds_eye(
    ax: Axes, points: np.ndarray, boxes: dict[str, np.ndarray] | None = None, ahead: float = 50.0, aside: float = 20.0
) -> PathCollection:
    """Draw a cloud from above, and outlines of boxes with a line from the middle to the front.

    Args:
        points: (N, 3 or more), velodyne frame.
        boxes: name of an arm, or "ground truth" → (K, 7) LiDAR boxes.
        ahead, aside: metres shown in front of and to either side of the sensor.

    Returns:
        The plotted points, for a colour bar: their colour is the height above the sensor.
    """
    inside = (points[:, 0] > 0) & (points[:, 0] < ahead) & (np.abs(points[:, 1]) < aside)
    x, y, z = points[inside, :3].T
    scatter = ax.scatter(y, x, c=z, s=1.2, lw=0, cmap=COLOURS, vmin=-2, vmax=1, rasterized=True)
    for name, of_arm in (boxes or {}).items():
        of_arm = np.asarray(of_arm, float).reshape(-1, 7)
        for k, (ground, box) in enumerate(zip(corners(of_arm)[:, :4, :2], of_arm, strict=True)):
            loop = ground[[0, 1, 2, 3, 0]]
            front = np.stack([box[:2], ground[:2].mean(0)])
            ax.plot(loop[:, 1], loop[:, 0], color=arm_colour(name), lw=1.4, label=None if k else arm_label(name))
            ax.plot(front[:, 1], front[:, 0], color=arm_colour(name), lw=1.0)
    ax.set_xlim(aside, -aside)
    ax.set_ylim(0, ahead)
    ax.set_aspect("equal")
    ax.set_xlabel("y, metres to the left")
    ax.set_ylabel("x, metres ahead")
    return scatter


def draw_over_image(ax: Axes, image: np.ndarray, points: np.ndarray, calibration: Calibration) -> PathCollection:
    """Draw a cloud's points over the greyed image, coloured by depth; returns them for a colour bar."""
    uv, z = calibration.lidar_to_image(points[:, :3])
    height, width = image.shape[:2]
    visible = in_image(uv, z, (width, height))
    order = np.argsort(-z[visible])  # near ones last, on top
    ax.imshow(image.mean(2) * 0.6 + 90, cmap="gray", vmin=0, vmax=255)
    (u, v), depth = uv[visible][order].T, z[visible][order]
    scatter = ax.scatter(u, v, c=depth, s=1.2, lw=0, cmap=COLOURS, norm=DEPTHS, rasterized=True)
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_xticks([])
    ax.set_yticks([])
    return scatter


def compare_clouds(
    image: np.ndarray,
    calibration: Calibration,
    clouds: dict[str, np.ndarray],
    boxes: dict[str, np.ndarray] | None = None,
    ahead: float = 50.0,
    aside: float = 20.0,
) -> Figure:
    """Clouds side by side: each over the image, which shows whether calibration and depth are right, and from above.

    Args:
        image: uint8 (H, W, 3).
        clouds: title → (N, 3 or more) points, such as {"LiDAR": ..., "pseudo-LiDAR": ...}.
        boxes: as ``draw_birds_eye``, the same in every panel.
    """
    across = len(clouds)
    share = image.shape[0] / image.shape[1]
    width = 4.4  # of a panel without its labels, inches
    above, below = width * share, width * ahead / (2 * aside)
    figure, axes = new_figure(
        (width + 0.6) * across + 1.0, above + below + 0.9, 2, across, squeeze=False, height_ratios=[above, below]
    )
    for k, (title, points) in enumerate(clouds.items()):
        depth = draw_over_image(axes[0, k], image, points, calibration)
        axes[0, k].set_title(f"{title}: {len(points):,} points")
        height = draw_birds_eye(axes[1, k], points, boxes, ahead, aside)
    bar = figure.colorbar(depth, ax=axes[0], label="depth z, m", aspect=12, extend="both")
    metre_ticks(bar, (5, 10, 20, 40))
    figure.colorbar(height, ax=axes[1], label="height above the sensor, m", shrink=0.7, extend="both")
    if any(len(b) for b in (boxes or {}).values()):
        axes[1, 0].legend(loc="lower right", fontsize=8)
    return figure


def metre_ticks(bar: Colorbar, metres: tuple[int, ...]) -> None:
    bar.set_ticks(metres, labels=[str(m) for m in metres])
    bar.minorticks_off()


def depth_errors(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, limit: float = 0.5) -> Figure:
    """The image, its predicted depth, and where the LiDAR measured it: by which share is it too far or too near?

    Args:
        image: uint8 (H, W, 3).
        predicted, truth: (H, W), z in metres; truth is 0 where nothing was measured.
        limit: share at which the colours end.
    """
    width = 8.0
    figure, axes = new_figure(width, 3 * (width - 1) * image.shape[0] / image.shape[1] + 0.9, 3, 1)
    axes[0].imshow(image)
    axes[0].set_title("image")
    depth = axes[1].imshow(predicted, cmap=COLOURS, norm=DEPTHS)
    axes[1].set_title("predicted depth")
    rows, columns = np.nonzero(truth > 0)
    share = (predicted - truth)[rows, columns] / truth[rows, columns]
    axes[2].set_facecolor("#eeeeee")
    error = axes[2].scatter(
        columns, rows, c=share, s=1.5, lw=0, cmap="PuOr", norm=TwoSlopeNorm(0, -limit, limit), rasterized=True
    )
    axes[2].set_xlim(-0.5, image.shape[1] - 0.5)
    axes[2].set_ylim(image.shape[0] - 0.5, -0.5)
    axes[2].set_aspect("equal")
    mean = f"mean {100 * np.abs(share).mean():.0f} % of the distance" if len(share) else "no LiDAR point in the image"
    axes[2].set_title(f"error where the LiDAR measured: {mean}")
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    metre_ticks(figure.colorbar(depth, ax=axes[1], label="depth z, m", extend="both"), (5, 10, 20, 40))
    bar = figure.colorbar(error, ax=axes[2], label="too near ← → too far", extend="both")
    bar.set_ticks([-limit, 0, limit], labels=[f"-{100 * limit:.0f} %", "0", f"+{100 * limit:.0f} %"])
    return figure


def error_curves(by_distance: dict[str, list[dict]]) -> Figure:
    """Mean absolute depth error by distance, a line for each depth model.

    Args:
        by_distance: name → rows of ``kdnb.metrics.depth.error_by_distance``.
    """
    figure, ax = new_figure(6.5, 3.6)
    for (name, rows), marker in zip(by_distance.items(), "osD^v" * len(by_distance), strict=False):
        rows = [row for row in rows if row["pixels"]]
        middles = [(row["low"] + row["high"]) / 2 for row in rows]
        ax.plot(middles, [row["MAE"] for row in rows], marker=marker, label=arm_label(name))
    ax.set_xlabel("true depth, m (middle of the bin)")
    ax.set_ylabel("mean absolute error, m")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def cloud_3d(
    points: np.ndarray, boxes: dict[str, np.ndarray] | None = None, most: int = MOST, seed: int = 0
) -> go.Figure:
    """A cloud to turn and zoom, as a plotly figure; of more than ``most`` points a random choice is shown.

    Args:
        points: (N, 3 or more), velodyne frame.
        boxes: as ``draw_birds_eye``.
    """
    import plotly.graph_objects as go  # a second and a half, for this figure alone

    if len(points) > most:
        points = points[np.sort(np.random.default_rng(seed).choice(len(points), most, replace=False))]
    x, y, z = points[:, :3].astype(np.float32).T  # half of what plotly would put into a notebook in double precision
    marker = {
        "size": 1.4,
        "color": z,
        "colorscale": "Cividis",
        "cmin": -2,
        "cmax": 1,
        "colorbar": {"title": "z, m", "thickness": 12, "len": 0.6},
    }
    shown = [go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name="points", hoverinfo="x+y+z")]
    for name, of_arm in (boxes or {}).items():
        x, y, z = wireframes(of_arm).T
        line = {"color": arm_colour(name) if name != "ground truth" else GREY, "width": 5}
        shown.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, name=arm_label(name), hoverinfo="name"))
    axes = {f"{a}axis": {"title": {"text": f"{a}, m"}} for a in "xyz"}
    camera = {"eye": {"x": -1.4, "y": 0.0, "z": 0.7}, "up": {"x": 0, "y": 0, "z": 1}}
    return go.Figure(
        shown,
        {
            "scene": {**axes, "aspectmode": "data", "camera": camera},
            "height": 520,
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "legend": {"orientation": "h", "itemsizing": "constant"},
        },
    )


def wireframes(boxes: np.ndarray) -> np.ndarray:
    """(M, 3) points of all edges of boxes (K, 7), a row of NaN after each edge, so that one line plots them all."""
    each = corners(boxes)[:, np.array(EDGES)]  # K, 12, 2, 3
    gaps = np.full((*each.shape[:2], 1, 3), np.nan)
    return np.round(np.concatenate([each, gaps], 2).reshape(-1, 3), 2)
