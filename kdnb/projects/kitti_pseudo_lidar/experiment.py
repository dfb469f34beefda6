"""04's experiment: its depth network, and how a detector is trained on clouds, predicts and is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from kdnb.datasets.kitti_augment import all_views
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_labels import KittiLabel, write_detections
from kdnb.datasets.kitti_views import PLAIN, KittiViews, PreparedFrames, as_sample, collate, crop, shrink
from kdnb.datasets.pseudo_lidar import pseudo_points
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan, TrainHistory, move
from kdnb.evidence import Comparison
from kdnb.experiment import Arm, ArmResult, Experiment
from kdnb.experiment.teachers import load_batches
from kdnb.metrics.kitti import bootstrap_kitti, kitti_cases
from kdnb.metrics.kitti_scores import car_ap, detection_labels, kitti_scores
from kdnb.models.depth import DepthModel, depth_model, focal_factor
from kdnb.models.fusion3d import Fusion3D, detect
from kdnb.projects.kitti_pseudo_lidar.arms import ABLATIONS, ARMS, COMPARISONS
from kdnb.projects.kitti_pseudo_lidar.clouds import cloud_path, has_clouds, train_depth, write_clouds
from kdnb.projects.kitti_pseudo_lidar.data import KittiPseudoLidarSettings, frames_with_objects, ground_truth, open_data
from kdnb.projects.kitti_pseudo_lidar.terms import build, build_depth, build_distiller, teacher_step

VIEWS = all_views()
SCORE_THRESHOLD = 0.05
# the scores that tables show, beside the primary one by difficulty and distance
HEADLINES = ("APBEV_R40_50", "AP3D_R40_70", "AP3D_R11_50", "AOS_R40", "Pedestrian_AP3D_R40_25", "Cyclist_AP3D_R40_25")


class KittiPseudoLidar(Experiment):
    """One run of 04: a LiDAR detector teaches one of the same make that gets a camera's pseudo-LiDAR.

    The clouds of its depth network lie in ``pseudo/`` of the run's folder.
    """

    project = "04_kitti_pseudo_lidar"
    primary = "AP3D_R40_50"  # cars, moderate, in 3D at an overlap of 0.5 (the loose one), mean over 40 recalls
    settings_class = KittiPseudoLidarSettings
    cover = "04 a camera, no laser", (0.337, 0.685, 0.918, 0.948)
    frame_task = "boxes"
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    kept_outputs = ("bev", "heatmap", "boxes")
    bench_settings = {"train_frames": 16, "val_frames": 2, "test_frames": 2, "few_labels": 2}
    arms, ablations, comparisons = ARMS, ABLATIONS, COMPARISONS

    def is_small(self) -> bool:
        return self.settings.network == "lite"

    def also_needs(self, name: str) -> Sequence[str]:
        return ("depth",) if self.known[name].points == "pseudo" else ()

    def network_key(self, name: str) -> str:
        return self.known[name].points

    # --- networks ---------------------------------------------------------------------------------------------------

    def build(self, arm: Arm, seed: int, settings: KittiPseudoLidarSettings) -> nn.Module:
        return (build_depth if arm.network == "depth" else build)(settings, seed)

    def build_distiller(self, model: Fusion3D, arm: Arm, teacher: Teacher | None = None) -> Distiller:
        trained = self.train(arm.teacher).model if arm.terms else None
        return build_distiller(model, trained, arm.terms, self.settings, teacher or self.teacher_of(arm))

    def before_training(self, name: str) -> None:
        if self.known[name].points == "pseudo":
            self.write_clouds()
        super().before_training(name)

    def train_arm(self, name: str) -> ArmResult:
        arm, settings = self.known[name], self.settings
        if arm.network != "depth":
            return super().train_arm(name)
        file = self.store.checkpoint(name) if settings.checkpoint_every else None
        result = train_depth(self.build(arm, self.run.seed, settings), settings, self.data, self.run.seed, file)
        result.numbers["train_s"] = self.seconds(result.training)
        return result

    def combine(self, name: str, members: list[ArmResult]) -> ArmResult:
        """The member's finished network, on this arm's points and images."""
        result = self.result(name, members[0].model, TrainHistory())
        return replace(result, validation=self.validation_score(result.model, self.known[name]))

    # --- depth and clouds -------------------------------------------------------------------------------------------

    def keep(self, name: str, result: ArmResult) -> ArmResult:
        self.results[name] = super().keep(name, result)
        if self.known[name].network == "depth":
            self.write_clouds()
        return result

    @cached_property
    def depth(self) -> DepthModel:
        """Image -> z in metres: the trained network, or what the settings name."""
        return depth_model(self.settings.depth, self.train("depth").model)

    @property
    def clouds(self) -> Path:
        return self.run.folder / "pseudo"

    def write_clouds(self) -> None:
        """The pseudo-LiDAR of all frames, below ``clouds``; finished clouds stay. All processes must call it."""
        self.train("depth")
        write_clouds(self.data.sources, self.clouds, lambda: self.depth, self.acc, seed=self.run.seed)

    # --- batches ----------------------------------------------------------------------------------------------------

    @cached_property
    def prepared(self) -> dict[str, PreparedFrames]:
        """Of each split."""
        area, width = self.settings.grid.range, self.settings.image_width
        options = {"pseudo": lambda frame: cloud_path(self.clouds, frame), "keep": self.data.in_memory}
        splits = ("train", "validation", "test")
        return {split: PreparedFrames(getattr(self.data, split), area, width, **options) for split in splits}

    def can_be_labelled(self) -> list[int]:
        return frames_with_objects(self.data.train)

    def train_items(self) -> dict[int, str]:
        return {i: frame.name for i, frame in enumerate(self.data.train)}

    def batches(self, arm: Arm) -> tuple[KittiViews, Plan, Callable]:
        if arm.points == "pseudo" and not has_clouds(self.data.sources, self.clouds):
            self.write_clouds()  # for kdnb bench; in a training before_training has written them
        labelled, views = self.labelled(arm.labels) if arm.labels else None, PLAIN | VIEWS
        prepared, with_teacher = self.prepared["train"], bool(arm.terms)
        data = KittiViews(prepared, arm.points, views, labelled, arm.image, with_teacher, color_jitter=True)
        return data, Plan(self.pools(arm), tuple(VIEWS), self.run.seed), collate

    def teacher_batches(self) -> tuple[KittiViews, Plan, Callable]:
        return self.batches(self.known["distilled"])

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict(self, model: Fusion3D, split: str, arm: Arm) -> dict[str, dict]:
        """frame -> "boxes" (K, 7) in the velodyne frame, "scores" (K,), "labels" (K,), as the arm gets the frames."""
        views, size = KittiViews(self.prepared[split], arm.points, image=arm.image), self.settings.batch
        keys = [(i, "plain") for i in range(len(views))]
        batches = [keys[i : i + size] for i in range(0, len(keys), size)]
        loader = load_batches(views, collate, range(len(views)), self.settings.workers, self.acc.device, batches)
        frames = [frame.name for frame in getattr(self.data, split)]
        return dict(zip(frames, detect(model, loader, SCORE_THRESHOLD), strict=True))

    @cached_property
    def truth(self) -> dict[str, dict]:
        return {split: ground_truth(getattr(self.data, split)) for split in ("validation", "test")}

    def validation_score(self, model: Fusion3D, arm: Arm) -> float:
        detections = self.predict(model, "validation", arm)
        return car_ap(self.truth["validation"], detection_labels(detections, self.data.validation))

    def score(self, predictions: dict, split: str) -> dict:
        labels = detection_labels(predictions, getattr(self.data, split))
        scores = kitti_scores(self.truth[split], labels, self.settings.distances)
        headlines = [key for key in scores if key in HEADLINES or key.startswith(self.primary)]
        return {**{key: scores[key] for key in headlines}, "kitti": scores}

    def as_record(self, predictions: dict) -> dict:
        return {frame: {key: value.tolist() for key, value in one.items()} for frame, one in predictions.items()}

    def detections(self, name: str) -> dict[str, dict[str, np.ndarray]]:
        """A finished arm's predictions for test, as ``predict`` gives them, as arrays."""
        arrays = {}
        for frame, one in self.results[name].predictions.items():
            boxes, scores = np.array(one["boxes"]).reshape(-1, 7), np.array(one["scores"])
            arrays[frame] = {"boxes": boxes, "scores": scores, "labels": np.array(one["labels"], int)}
        return arrays

    def detected_labels(self, name: str) -> dict[str, list[KittiLabel]]:
        """The same as KITTI's files have it."""
        return detection_labels(self.detections(name), self.data.test)

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        case = kitti_cases(self.truth["test"], self.detected_labels(name), "loose")["Car", "3d", "moderate"]
        return lambda weights: bootstrap_kitti(case, weights)["R40"], len(self.data.test)

    def one_call(self, model: nn.Module, name: str) -> Callable:
        frame, points = self.data.test[0], self.known[name].points
        if not points:
            image = frame.image()
            depth = depth_model("tiny", model) if self.settings.depth == "tiny" else self.depth
            return lambda: pseudo_points(depth(image, frame.name), image, frame.calibration, seed=self.run.seed)
        batch = collate([KittiViews(self.prepared["test"], points)[0, "plain"]])
        return lambda: model(batch["points"], batch["images"], batch["projections"])

    def add_costs(self) -> None:
        """FLOPs and latency of all arms. An arm on pseudo-LiDAR needs the depth network too: its costs stand beside
        the detector's as "..._depth"."""
        students = [result.numbers for name, result in self.results.items() if self.known[name].points == "pseudo"]
        depth = self.train("depth").numbers if students else {}
        super().add_costs()
        for numbers in students:
            numbers.update({f"{key}_depth": depth[key] for key in ("params", "flops", "latency_ms")})

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons, metrics.json and depth.json; returns the comparisons."""
        comparisons = super().save()
        if "depth" in self.results:
            self.run.save_json("depth", self.results["depth"].numbers)
        return comparisons

    def save_detections(self, name: str) -> Path:
        """Write ``detections/<name>/<frame>.txt`` below the run's folder for each test frame, for the official tool."""
        return write_detections(self.run.folder / "detections" / name, self.detected_labels(name))

    def predict_image(
        self, name: str, image: np.ndarray, calibration: Calibration, points: np.ndarray | None = None
    ) -> dict:
        """A student's detections in any image, or a LiDAR arm's in an image and its cloud.

        Args:
            image: uint8 (H, W, 3); calibration: its camera's. points: (N, 4); pseudo-LiDAR of the image if None.

        Returns:
            "boxes" (K, 7), "scores", "labels" as in ``detections``; "points" (N, 4), the cloud; "depth" (H, W), or
            None with points.
        """
        arm, model, depth = self.known[name], self.train(name).model, None
        if points is None:
            factor = focal_factor(self.data.train[0], image, calibration) if self.settings.depth == "tiny" else 1.0
            depth = factor * self.depth(image)
            points = pseudo_points(depth, image, calibration, seed=self.run.seed)
        inside = crop(points, calibration, image.shape[1::-1], model.grid.range)
        small, scale = shrink(image if arm.image else np.zeros_like(image), self.settings.image_width)
        batch = move(collate([as_sample(small, scale @ calibration.projection(), inside)]), self.acc.device)
        detections = detect(model, [batch], SCORE_THRESHOLD)[0]
        return {**{key: value.numpy() for key, value in detections.items()}, "points": points, "depth": depth}

    def frame_predictor(self, name: str) -> Callable:
        """Frame -> as ``predict_image`` in KITTI's window of it; None where an arm on LiDAR has no points."""
        needs_lidar = self.known[name].points == "velodyne"

        def detect_in(frame) -> dict | None:
            if needs_lidar and frame.points is None:
                return None
            image, calibration = frame.cut_out(frame.kitti_window())
            return self.predict_image(name, image, calibration, frame.points if needs_lidar else None)

        return detect_in
