"""04's way from images to point clouds: the depth network, its errors, and the clouds of all frames."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from kdnb.datasets.depth_views import VIEWS, DepthViews, collate_depth
from kdnb.datasets.kitti import Frame, KittiObject
from kdnb.datasets.pseudo_lidar import check_recipe, write_pseudo_lidar
from kdnb.datasets.sparse_depth import sparse_depth
from kdnb.distill.distiller import Distiller
from kdnb.engine import Plan, TrainHistory, fit
from kdnb.experiment import ArmResult
from kdnb.metrics.cost import state_dict_mb
from kdnb.metrics.depth import evaluate_depth
from kdnb.models.depth import DepthModel, depth_model, require_metres
from kdnb.models.depth_net import depth_step
from kdnb.projects.kitti_pseudo_lidar.data import Data, KittiPseudoLidarSettings

DEPTH_EVAL_FRAMES = 50  # for the errors of a depth network: each has thousands of measured pixels
DEPTH_LR, DEPTH_CLIP = 3.0e-3, 1.0
POINTS = "pseudo"  # name of the clouds' folder


def train_depth(
    net: nn.Module, settings: KittiPseudoLidarSettings, data: Data, seed: int, checkpoint: Path | None
) -> ArmResult:
    """The arm of the depth network: trained on the LiDAR's points in the training images, unless depth comes from
    elsewhere, and scored. Its predictions are the errors by distance, of "test" and of "train"."""
    training = TrainHistory()
    if settings.depth == "tiny":
        views = DepthViews(data.train, settings.depth_size, keep=data.in_memory)
        config = dataclasses.replace(settings.train_config(settings.depth_steps, DEPTH_LR), clip=DEPTH_CLIP)
        plan = Plan([(range(len(views)), settings.depth_batch)], VIEWS, seed)
        distiller = Distiller(net, student_step=depth_step)
        training = fit(distiller, views, plan, config, collate=collate_depth, name="depth", checkpoint=checkpoint)
    model = depth_model(settings.depth, net)
    test, train = (depth_errors(model, frames[:DEPTH_EVAL_FRAMES]) for frames in (data.test, data.train))
    if settings.depth != "tiny":  # one that is trained here may have had too few steps
        require_metres(model, test)
    numbers = {
        **{key: test[key] for key in ("delta1.25", "AbsRel", "RMSE", "MAE")},
        "AbsRel_train": train["AbsRel"],
        "params": model.parameters,
        "size_mb": state_dict_mb(net),
        "steps": training.steps,
    }
    by_distance = {"test": test["by_distance"], "train": train["by_distance"]}
    return ArmResult(net, by_distance, numbers, float("nan"), training)


def depth_errors(depth: DepthModel, frames: Sequence[Frame]) -> dict:
    """Scores of a depth model against the LiDAR, at the images' own size; see ``evaluate_depth``."""

    def pairs():
        for frame in frames:
            image = frame.image()
            yield depth(image, frame.name), sparse_depth(frame.points(), frame.calibration, image.shape[:2])

    return evaluate_depth(pairs())


def cloud_path(folder: Path, frame: Frame) -> Path:
    """The file that ``write_clouds`` writes for a frame."""
    return folder / frame.image_path.parent.parent.name / POINTS / f"{frame.name}.bin"


def has_clouds(sources: Sequence[KittiObject], folder: Path) -> bool:
    """Whether ``write_clouds`` has nothing left to do."""
    return all(cloud_path(folder, frame).exists() for source in sources for frame in source)


def write_clouds(
    sources: Sequence[KittiObject], folder: Path, depth: Callable[[], DepthModel], acc: Accelerator, **how: Any
) -> None:
    """The pseudo-LiDAR of all frames below ``folder``, a KITTI root; finished clouds stay.

    Each process of ``acc`` writes its share; all of them must call this.

    Args:
        depth: makes the depth model, if it is needed; how: of ``pseudo_points``.
    """
    done = has_clouds(sources, folder)
    acc.wait_for_everyone()  # all of them look before one of them writes
    if done:
        return
    model = depth()
    with acc.main_process_first():
        check_recipe(folder, model.name, POINTS, how)
    for source in sources:
        share = copy.copy(source)
        share.frames = source.frames[acc.process_index :: acc.num_processes]
        write_pseudo_lidar(share, folder, model, POINTS, **how)
    acc.wait_for_everyone()
