"""03's experiment: its arms, and how a detector is trained on them, predicts and is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision.models.detection import FasterRCNN

from kdnb.datasets.augment import augmentations
from kdnb.datasets.detection import VIEWS, DetectionViews, collate
from kdnb.datasets.voc import VOC_CLASSES, write_detections
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan
from kdnb.experiment import Arm, Experiment
from kdnb.metrics.detection import detection_scores
from kdnb.metrics.voc import bootstrap_map, evaluate_voc, match_table
from kdnb.models.detector import predict
from kdnb.projects.voc_defeat.data import VocDefeatSettings, ground_truth, open_data
from kdnb.projects.voc_defeat.terms import DEFEAT, build, build_distiller, inherit_heads, teacher_step

TAUGHT = Arm(DEFEAT, teacher="teacher")


class VocDefeat(Experiment):
    """One run of 03: a Faster R-CNN teacher distilled into a smaller one through decoupled features of the neck."""

    project, primary = "03_voc_defeat", "mAP50"
    settings_class = VocDefeatSettings
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    kept_outputs = ("features",)
    bench_settings = {"train_images": 64, "test_images": 8}
    cover = "03 what is where", (0.511, 0.515, 0.752, 0.75)
    frame_task = "objects"
    arms = {
        "teacher": Arm(network="teacher"),
        "baseline": Arm(),
        "few_labels_baseline": Arm(labels=1),
        "distilled": TAUGHT,
        "baseline_matched": Arm(matches="distilled"),
        "few_labels_distilled": dataclasses.replace(TAUGHT, labels=1),
        "pkd": Arm(("pkd",), teacher="teacher", role="control"),
    }
    ablations = {
        "fg_only": Arm(("neck_fg",), teacher="teacher"),
        "bg_only": Arm(("neck_bg",), teacher="teacher"),
        "head_term": Arm((*DEFEAT, "head_fg", "head_bg"), teacher="teacher"),
        "long_baseline": Arm(longer=2),
        "long_distilled": dataclasses.replace(TAUGHT, longer=2),
        "inherited_baseline": Arm(start_from="teacher"),
        "inherited_distilled": dataclasses.replace(TAUGHT, start_from="teacher"),
        "distilled_kept": dataclasses.replace(TAUGHT, kept=True),
        "kept_matched": Arm(matches="distilled_kept"),
        "teacher_elsewhere": Arm(network="teacher", part="elsewhere"),  # has seen no image of its students
        "elsewhere_baseline": Arm(labels=1, part="own"),
        "elsewhere_distilled": Arm(DEFEAT, teacher="teacher_elsewhere", labels=1, part="own"),
    }
    comparisons = (
        ("distilled", "baseline"),
        ("distilled", "baseline_matched"),
        ("few_labels_distilled", "few_labels_baseline"),
        ("pkd", "baseline"),
        ("distilled", "pkd"),
        ("fg_only", "baseline"),
        ("bg_only", "baseline"),
        ("distilled", "fg_only"),
        ("distilled", "bg_only"),
        ("head_term", "distilled"),
        ("long_distilled", "long_baseline"),
        ("inherited_distilled", "inherited_baseline"),
        ("distilled_kept", "kept_matched"),
        ("elsewhere_distilled", "elsewhere_baseline"),
    )

    def is_small(self) -> bool:
        return self.settings.student.backbone == "small"

    # --- networks ---------------------------------------------------------------------------------------------------

    def build(self, arm: Arm, seed: int, settings: VocDefeatSettings) -> FasterRCNN:
        return build(getattr(settings, arm.network), settings, seed)

    def start_weights(self, model: FasterRCNN, other: FasterRCNN) -> None:
        inherit_heads(model, other)

    def build_distiller(self, model: FasterRCNN, arm: Arm, teacher: Teacher | None = None) -> Distiller:
        trained = self.train(arm.teacher).model if arm.terms else None
        return build_distiller(model, trained, arm.terms, self.settings, teacher or self.teacher_of(arm))

    def keeps_outputs(self, arm: Arm) -> bool:
        one_size = self.data.one_size or self.settings.teacher.is_timm  # which pads all images to one size
        return super().keeps_outputs(arm) and one_size

    def teacher_batches(self) -> tuple[DetectionViews, Plan, Callable]:
        views = self.views(kept=True)
        return DetectionViews(self.data.train), Plan(self.pools(self.arms["baseline"]), views, self.run.seed), collate

    # --- batches ----------------------------------------------------------------------------------------------------

    def train_items(self) -> dict[int, int | str]:
        return {i: self.data.train.dataset.ids[k] for i, k in enumerate(self.data.train.indices)}

    def batches(self, arm: Arm) -> tuple[DetectionViews, Plan, Callable]:
        labelled = self.share(arm)[0] if arm.labels else None
        boxes = self.teacher_boxes(arm) if arm.labels and arm.terms else None
        views = DetectionViews(self.data.train, labelled, boxes)
        return views, Plan(self.pools(arm), self.views(kept=self.keeps_outputs(arm)), self.run.seed), collate

    def views(self, kept: bool) -> list[str]:
        """Of each training image; ``kept``: those for which a teacher's outputs are kept."""
        return [*VIEWS, *augmentations(self.settings.kept_augmentations if kept else self.settings.augmentations)]

    def teacher_boxes(self, arm: Arm) -> dict[int, Tensor]:
        """The teacher's confident detections in the images without labels: foreground for the masks, never a label."""
        unlabelled = self.share(arm)[1]
        images = Subset(self.data.train, unlabelled)
        detections = predict(self.train(arm.teacher).model, (images[i]["image"] for i in range(len(images))))
        score = self.settings.pseudo_box_score
        return {i: one["boxes"][one["scores"] > score] for i, one in zip(unlabelled, detections, strict=True)}

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict(self, model: FasterRCNN, split: str, arm: Arm) -> dict[str, dict[str, Tensor]]:
        """image id -> "boxes" (N, 4) in pixels, "labels" (N,), "scores" (N,)."""
        ids: list[str] = []
        data = getattr(self.data, split)

        def images():
            for i in range(len(data)):
                ids.append(data[i]["id"])
                yield data[i]["image"]

        return dict(zip(ids, predict(model, images()), strict=True)) if len(data) else {}

    @cached_property
    def truth(self) -> dict[str, dict]:
        return {split: ground_truth(getattr(self.data, split)) for split in ("validation", "test")}

    def validation_score(self, model: FasterRCNN, arm: Arm) -> float:
        detections = self.predict(model, "validation", arm)
        return evaluate_voc(self.truth["validation"], detections, "area")["mAP"]

    def score(self, predictions: dict, split: str) -> dict:
        return detection_scores(self.truth[split], predictions)

    def as_record(self, predictions: dict) -> dict:
        return {image: {key: value.tolist() for key, value in one.items()} for image, one in predictions.items()}

    def detections(self, name: str) -> dict[str, dict[str, Tensor]]:
        """A finished arm's predictions for test, as ``predict`` gives them."""
        record = self.results[name].predictions
        tensors = {image: {key: torch.tensor(value) for key, value in one.items()} for image, one in record.items()}
        return {image: {**one, "boxes": one["boxes"].reshape(-1, 4)} for image, one in tensors.items()}

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        table = match_table(self.truth["test"], self.detections(name))
        return lambda weights: bootstrap_map(table, weights, "area"), len(self.truth["test"])

    def one_call(self, model: FasterRCNN, name: str) -> Callable:
        image = self.data.test[0]["image"].float() / 255
        return lambda: model([image])

    def save_detections(self, name: str) -> Path:
        """The official ``comp4_det_test_<class>.txt`` files of an arm, below the run's folder."""
        folder = self.run.folder / "detections" / name
        write_detections(folder, VOC_CLASSES, self.detections(name))
        return folder

    def frame_predictor(self, name: str) -> Callable:
        """Frame -> "boxes" (K, 4) in the frame's pixels, "labels", "scores", numpy, and the "window" looked at."""
        model = self.train(name).model.eval()

        def detect(frame) -> dict:
            window = frame.street_window(self.settings.size)
            pixels, _ = frame.cut_out(window)
            detections = predict(model, [torch.from_numpy(pixels.copy()).permute(2, 0, 1)])[0]
            arrays = {key: value.numpy() for key, value in detections.items()}
            corner = np.array([*window[:2], *window[:2]], float)
            return {**arrays, "boxes": arrays["boxes"].astype(float) + corner, "window": window}

        return detect
