"""05's experiment: its arms, and how a segmenter is trained on them, predicts and is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdnb.datasets.augment import augmentations
from kdnb.datasets.camvid import CLASSES, write_predictions
from kdnb.datasets.color_jitter import ColorJitterViews, with_color_jitters
from kdnb.datasets.segmentation import SegmentationViews, class_weights, collate, count_pixels
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan, TrainConfig, TrainHistory
from kdnb.experiment import Arm, ArmResult, Experiment
from kdnb.metrics.segmentation import bootstrap_miou, boundary_iou, calibration_error, confusion, scores_from
from kdnb.models.diffusion import DiffusionSegmenter, diffusion_step
from kdnb.models.prompts import read_prompts
from kdnb.models.segmenter import class_probabilities, segmentation_step
from kdnb.projects.camvid_prompt_kd.arms import ABLATIONS, ARMS, COMPARISONS, PROMPT_TEACHERS, WITH_HEAD, CamVidArm
from kdnb.projects.camvid_prompt_kd.data import CamVidPromptKdSettings, Data, open_data, parts_by_drive
from kdnb.projects.camvid_prompt_kd.teachers import Encoder, build_teacher, text_encoder
from kdnb.projects.camvid_prompt_kd.terms import build, build_distiller, teacher_step
from kdnb.run import Run


class CamVidPromptKd(Experiment):
    """One run of 05: a segmenter that compares pixels with words teaches a small one that needs no text.

    "body" is trained first, an ordinary segmenter. The teachers start from it with a fresh head and train on, all for
    as many steps: they differ in the head alone. All labels, for as many steps as the few-labels arms, is the baseline.
    """

    project, primary = "05_camvid_prompt_kd", "mIoU"
    settings_class = CamVidPromptKdSettings
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    kept_outputs = ("logits",)
    bench_settings = {"train_frames": 64, "val_frames": 4, "test_frames": 4}
    cover = "05 alone and taught, eight labels", (0.509, 0.307, 0.832, 0.498)
    frame_task = "road"
    arms, ablations, comparisons = ARMS, ABLATIONS, COMPARISONS

    def __init__(self, run: Run, settings: CamVidPromptKdSettings, data: Data, root: str | Path = "data"):
        if settings.teacher != "body":  # the teachers' features come ready-made
            trained = {name: arm for name, arm in self.arms.items() if arm.network != "body"}
            self.arms = {name: replace(arm, start_from="") for name, arm in trained.items()}
        self.prompts = read_prompts(settings.prompts)
        self._frames: dict[tuple[int, str], tuple[SegmentationViews, Tensor]] = {}
        super().__init__(run, settings, data, root)

    def is_small(self) -> bool:
        return self.settings.student.backbone == "unet"

    # --- networks ---------------------------------------------------------------------------------------------------

    @property
    def encode(self) -> Encoder:
        """Texts -> unit vectors, as the settings say."""
        return text_encoder(self.settings.text, self.settings.clip_model, self.settings.clip_weights)

    def build(self, arm: CamVidArm, seed: int, settings: CamVidPromptKdSettings) -> nn.Module:
        if arm.network not in WITH_HEAD:
            return build(settings.teacher_body if arm.network == "body" else settings.student, seed)
        folder = self.run.folder / "cache" if settings.keep_features else None
        return build_teacher(arm.prompts, settings, self.prompts, seed, folder)

    def build_again(self, name: str) -> nn.Module:
        return super().build_again(self.alias_of(name) or name)  # prompts may be in a network but not in its weights

    def start_weights(self, model: nn.Module, other: nn.Module) -> None:
        """Let a teacher start from the body, whose own head is left out."""
        weights = other.state_dict()
        model.body.load_state_dict({key: weights[key] for key in model.body.state_dict()})

    def build_distiller(self, model: nn.Module, arm: CamVidArm, teacher: Teacher | None = None) -> Distiller:
        settings, weights = self.settings, self.weights(arm)
        if not arm.terms:
            reads_diffusion = arm.network in WITH_HEAD and settings.teacher == "diffusion"
            task = diffusion_step if reads_diffusion else segmentation_step
            return build_distiller(model, None, (), settings, weights, task=task)
        trained, outputs = self.train(arm.teacher), teacher or self.teacher_of(arm)
        kept = (trained.predictions or {}).get("class_weights")
        teacher_weights = None if kept is None else torch.tensor(kept)
        return build_distiller(model, trained.model, arm.terms, settings, weights, teacher_weights, outputs)

    def keeps_outputs(self, arm: Arm) -> bool:
        return super().keeps_outputs(arm) and "kd_features" not in arm.terms

    # --- training ---------------------------------------------------------------------------------------------------

    def steps(self, arm: Arm) -> int:
        return self.settings.body_steps if arm.network == "body" else super().steps(arm)

    def train_config(self, arm: Arm) -> TrainConfig:
        lr = self.settings.teacher_lr if arm.network in WITH_HEAD else self.settings.lr
        return self.settings.train_config(self.steps(arm), lr)

    def alias_of(self, name: str) -> str:
        """The trained arm that this one is another name of, or "": the best of its members, or the arm whose teacher is
        "teacher" where that is this one's teacher."""
        arm, (teacher, _) = self.known[name], self.checked
        if arm.members:
            return max(arm.members, key=lambda member: self.train(member).validation)
        if arm.teacher in PROMPT_TEACHERS and arm.teacher == self.train(teacher).numbers["of"]:
            return next(other for other, one in self.known.items() if one == replace(arm, teacher=teacher))
        return ""

    def also_needs(self, name: str) -> Sequence[str]:
        chosen = self.known[name].teacher in PROMPT_TEACHERS and self.is_finished(self.checked[0])
        return [alias] if chosen and (alias := self.alias_of(name)) else []

    def train_arm(self, name: str) -> ArmResult:
        alias = self.alias_of(name)
        if not alias:
            return super().train_arm(name)
        result = self.train(alias)
        return replace(result, numbers={**result.numbers, "of": alias})

    def result(self, name: str, model: nn.Module, training: TrainHistory) -> ArmResult:
        """Of a trained network. A teacher's steps and seconds include its body's."""
        result, arm = super().result(name, model, training), self.known[name]
        if arm.start_from:
            body = self.train(arm.start_from).numbers
            result.numbers.update({key: result.numbers[key] + body[key] for key in ("train_s", "steps")})
        weights = self.weights(arm)
        result.predictions["class_weights"] = None if weights is None else weights.tolist()
        return result

    # --- batches ----------------------------------------------------------------------------------------------------

    def train_items(self) -> dict[int, int | str]:
        return {i: frame.name for i, frame in enumerate(self.data.train.frames)}

    def parts(self) -> dict[str, list[int]]:
        return parts_by_drive(self.data.train)

    def frames(self, arm: Arm) -> tuple[SegmentationViews, Tensor]:
        """The training frames with the labels that an arm may use, and the class weights of these."""
        key = (arm.labels, arm.part)
        if key not in self._frames:
            size, labelled = self.settings.size[::-1], self.share(arm)[0]
            views = SegmentationViews(self.data.train, size, labelled, keep=not self.settings.workers)
            self._frames[key] = views, class_weights(count_pixels(views, [(i, "plain") for i in labelled]))
        return self._frames[key]

    def weights(self, arm: CamVidArm) -> Tensor | None:
        """(11,) of the classes in the arm's loss."""
        return self.frames(arm)[1] if arm.weighted else None

    def batches(self, arm: Arm) -> tuple[ColorJitterViews, Plan, Callable]:
        settings, kept = self.settings, self.keeps_outputs(arm)
        more = augmentations(settings.kept_augmentations if kept else settings.augmentations)
        views = (*with_color_jitters(settings.views, settings.num_color_jitters), *more)
        return ColorJitterViews(self.frames(arm)[0]), Plan(self.pools(arm), views, self.run.seed), collate

    def teacher_batches(self) -> tuple[ColorJitterViews, Plan, Callable]:
        return self.batches(self.arms["distilled_kl"])

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict_image(self, model: nn.Module, image: Tensor) -> Tensor:
        """Probabilities (11, H, W) for an image uint8 (3, H, W) of any size, in its own pixels.

        All networks get it at ``settings.size``, as in training; their logits are then enlarged.
        """
        return class_probabilities(model, image, self.settings.size[::-1], self.acc.device)

    def predict(self, model: nn.Module, split: str, arm: Arm) -> dict:
        """For each frame "classes" and "labels", uint8 (H, W) in the label's pixels, and "confusions" (11, 11); "ece"
        in percent."""
        dataset, classes, labels = getattr(self.data, split), [], []

        def probabilities():  # they are large: a frame's are gone once the next one's are asked for
            for item in (dataset[i] for i in range(len(dataset))):
                frame = self.predict_image(model, item["image"])
                classes.append(frame.argmax(0).to(torch.uint8))
                labels.append(item["label"].to(torch.uint8))
                yield frame

        error = calibration_error(probabilities(), labels)  # the list grows by a label before each is read
        confusions = np.stack([confusion(*pair) for pair in zip(classes, labels, strict=True)])
        return {"classes": classes, "labels": labels, "ece": error, "confusions": confusions}

    def validation_score(self, model: nn.Module, arm: Arm) -> float:
        items = (self.data.validation[i] for i in range(len(self.data.validation)))
        matrices = (confusion(self.predict_image(model, item["image"]).argmax(0), item["label"]) for item in items)
        return scores_from(sum(matrices))["mIoU"]

    def score(self, predictions: dict, split: str) -> dict:
        boundary = boundary_iou(predictions["classes"], predictions["labels"])
        return {**scores_from(predictions["confusions"].sum(0)), "boundary_iou": boundary, "ece": predictions["ece"]}

    def as_record(self, predictions: dict) -> dict:
        return {"confusions": predictions["confusions"].tolist()}

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        table = np.array(self.results[name].predictions["confusions"])
        return lambda weights: bootstrap_miou(table, weights), len(table)

    def one_call(self, model: nn.Module, name: str) -> Callable:
        width, height = self.settings.size
        image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        if isinstance(getattr(model, "body", None), DiffusionSegmenter):
            model.body.features.folder = None  # to compute features costs more than to read kept ones
        return lambda: model(image)

    def predictions(self, name: str) -> dict[str, Tensor]:
        """A finished arm's predictions for test: frame -> classes uint8 (H, W), in the label's pixels."""
        model, items = self.train(name).model, (self.data.test[i] for i in range(len(self.data.test)))
        return {item["name"]: self.predict_image(model, item["image"]).argmax(0).to(torch.uint8) for item in items}

    def frame_predictor(self, name: str) -> Callable:
        """Frame -> where the road is: "mask" bool (H, W) in the frame's pixels, and the "window" looked at."""
        model, size, road = self.train(name).model, self.settings.size, CLASSES.index("road")

        def segment(frame) -> dict:
            left, top, right, bottom = window = frame.street_window(size)
            small = torch.from_numpy(np.array(Image.fromarray(frame.cut_out(window)[0]).resize(size)))
            is_road = self.predict_image(model, small.permute(2, 0, 1)).argmax(0).numpy() == road
            smooth = Image.fromarray(255 * is_road.astype(np.uint8)).resize(
                (right - left, bottom - top), Image.BILINEAR
            )
            mask = np.zeros(frame.image.shape[:2], bool)
            mask[top:bottom, left:right] = np.asarray(smooth) > 127
            return {"mask": mask, "window": window}

        return segment

    def save_predictions(self, name: str) -> Path:
        """Write ``predictions/<name>/`` in the run's folder, a PNG per test frame, as ``kdnb eval camvid`` reads it."""
        folder = self.run.folder / "predictions" / name
        write_predictions(folder, self.data.test, self.predictions(name))
        return folder

    def scores_by_labels(self, name: str) -> dict[int, list[float]]:
        """Number of labelled frames -> [mIoU], for the figure ``labels_curve``: of the finished arms that differ from
        this one in their labels alone. Only a student without a teacher may have all labels."""
        arm, scores = self.known[name], {}
        for other, one in self.known.items():
            if replace(one, labels=arm.labels) == arm and other in self.results and (one.labels or not arm.terms):
                scores[len(self.labelled(one.labels))] = [self.results[other].numbers[self.primary]]
        return dict(sorted(scores.items()))
