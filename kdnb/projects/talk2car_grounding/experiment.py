"""02's experiment: heads trained on the encoders of 01, and how they predict and are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdnb.datasets.talk2car_views import (
    VIEWS,
    Grounded,
    boxes_by_token,
    collate,
    item_in_pixels,
    normalize_boxes,
    pad_proposals,
    proposal_crops,
    resize_image,
)
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan, TrainConfig, TrainHistory, move
from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric
from kdnb.experiment import ArmResult, Experiment
from kdnb.experiment.teachers import load_batches
from kdnb.metrics.cost import count_parameters
from kdnb.metrics.grounding import evaluate_talk2car, iou_per_command, write_predictions
from kdnb.models.grounding import Grounder, grounding_step
from kdnb.projects.coco_alignment.store import Aligned, aligned, exported_networks
from kdnb.projects.talk2car_grounding.arms import ARMS, COMPARISONS, GroundingArm
from kdnb.projects.talk2car_grounding.data import Data, Talk2CarGroundingSettings, open_data
from kdnb.projects.talk2car_grounding.frames import frame_predictor
from kdnb.projects.talk2car_grounding.heads import build_grounder, encode_commands
from kdnb.projects.talk2car_grounding.inputs import CommandInputs
from kdnb.run import Run


class Talk2CarGrounding(Experiment):
    """One run of 02. Its heads learn from boxes alone: what was distilled are the encoders, in 01."""

    project, primary = "02_talk2car_grounding", "AP50"
    settings_class = Talk2CarGroundingSettings
    open_data = staticmethod(open_data)
    cover = "02 what a command means", (0.503, 0.808, 0.748, 0.993)
    frame_task = "target"
    frame_predictor = frame_predictor
    arms, comparisons = ARMS, COMPARISONS

    def __init__(self, run: Run, settings: Talk2CarGroundingSettings, data: Data, root: str | Path = "data"):
        super().__init__(run, settings, data, root)
        if data.note and self.acc.is_main_process:
            run.log_once(data.note)

    @classmethod
    def check_inputs(cls, run: Run, settings: Talk2CarGroundingSettings, root: str | Path) -> None:
        """Without the networks of 01 they would be trained anew, for minutes."""
        if exported_networks(settings.encoders, run.seed, root, settings.encoder_data) is None:
            raise InputError(
                f"{run.folder.name}: the networks of 01 that it stands on are not below {root}; expected them there, "
                f"run 01 in profile {settings.encoders} with seed {run.seed} first"
            )

    def is_small(self) -> bool:
        return not self.settings.whole_picture

    @cached_property
    def aligned(self) -> Aligned:
        """Teacher and students of 01, found or trained now."""
        networks = aligned(self.settings.encoders, self.run.seed, self.root, self.settings.encoder_data)
        networks.teacher.to(self.acc.device)
        return networks

    @cached_property
    def inputs(self) -> CommandInputs:
        """All commands as the networks read them."""
        return CommandInputs(self.settings, self.data, self.aligned, self.acc, self.run.folder / "cache")

    # --- arms -------------------------------------------------------------------------------------------------------

    def network_key(self, name: str) -> str:
        arm = self.known[name]
        return f"{'teacher' if arm.encoder == 'teacher' else 'student'} {arm.head} {arm.mode}"

    def before_training(self, name: str) -> None:
        arm = self.known[name]
        if not arm.start_from:
            self.inputs.tokens(arm.encoder)

    def build(self, arm: GroundingArm, seed: int, settings: Talk2CarGroundingSettings) -> Grounder:
        return build_grounder(arm, settings, self.aligned, seed)

    def build_distiller(self, model: Grounder, arm: GroundingArm, teacher: Teacher | None = None) -> Distiller:
        return Distiller(model, student_step=grounding_step)

    def steps(self, arm: GroundingArm) -> int:
        return self.settings.finetune_steps if arm.start_from else self.settings.head_steps

    def train_config(self, arm: GroundingArm) -> TrainConfig:
        lr = self.settings.finetune_lr if arm.start_from else self.settings.lr
        return self.settings.train_config(self.steps(arm), lr)

    # --- batches ----------------------------------------------------------------------------------------------------

    def labelled(self, labels: int) -> Sequence[int]:
        """In random order, unlike other projects'."""
        return self.label_order[: labels * self.settings.few_labels] if labels else range(len(self.data.train))

    def pools(self, arm: GroundingArm) -> list[tuple[Sequence[int], int]]:
        items = self.labelled(arm.labels)
        return [(items, min(self.settings.finetune_batch if arm.start_from else self.settings.batch, len(items)))]

    def batches(self, arm: GroundingArm) -> tuple[Grounded, Plan, Callable]:
        return self.inputs.dataset("train", arm), Plan(self.pools(arm), VIEWS, self.run.seed), collate

    # --- predictions and scores -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: Grounder, split: str, arm: GroundingArm) -> dict[str, list[float]]:
        """{token: [x, y, w, h]} in 1600 x 900, as the leaderboard takes it."""
        data, training, size = self.inputs.dataset(split, arm), model.training, 16 if arm.start_from else 64
        keys = [(index, "plain") for index in range(len(data))]
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        loaded = load_batches(data, collate, range(len(data)), self.settings.workers, self.acc.device, batches)
        model.eval()
        boxes = torch.cat([model(batch)["box"].float().cpu() for batch in loaded])
        model.train(training)
        return boxes_by_token(getattr(self.data, split).commands, boxes)

    def score(self, predictions: dict[str, list[float]], split: str) -> dict:
        return evaluate_talk2car(getattr(self.data, split).commands, predictions)

    def as_record(self, predictions: dict[str, list[float]]) -> dict:
        return predictions

    def result(self, name: str, model: Grounder, training: TrainHistory) -> ArmResult:
        result = super().result(name, model, training)
        # the text tower is the teacher's and the same for all: it is part of a prediction's time, not of an arm's size
        teacher = self.aligned.teacher
        result.numbers["params_text"] = count_parameters(teacher) - count_parameters(teacher.visual)
        return result

    def ious(self, name: str) -> np.ndarray:
        """(N,) overlap of an arm's box with the true one for each test command, in the order of the commands."""
        return iou_per_command(self.data.test.commands, self.results[name].predictions)

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        return mean_metric(100 * (self.ious(name) > 0.5)), len(self.data.test)

    def predict_command(self, name: str, image: Tensor, proposals: Tensor, command: str) -> dict[str, Tensor]:
        """An arm's prediction for any command on any image.

        Args:
            image: uint8 (3, H, W); proposals: (n, 4) in its pixels.

        Returns:
            "box" (4,) in the image's pixels; "scores" (n,) and "attention" (n,), each with a sum of 1; of the first
            P proposals, if there are more.
        """
        model = self.train(name).model.eval()
        return self._predict_command(model, self.aligned, self.known[name], image, proposals, command)

    @torch.inference_mode()
    def _predict_command(
        self, model: Grounder, encoders: Aligned, arm: GroundingArm, image: Tensor, proposals: Tensor, command: str
    ) -> dict[str, Tensor]:
        most, (height, width) = self.settings.proposals, image.shape[1:]
        proposals = proposals[:most]
        if self.settings.whole_picture and arm.encoder != "teacher":
            inputs = {"images": resize_image(image, self.settings.whole_picture)}
        else:
            inputs = {"crops": proposal_crops(image, proposals, encoders.crop, most)}
        text = {key: value[0] for key, value in encode_commands([command], encoders).items()}
        sample = {**inputs, **text, **pad_proposals(normalize_boxes(proposals, width, height), most)}
        outputs = model(move(collate([sample]), next(model.parameters()).device))
        scores, attention = (outputs[key][0][: len(proposals)].cpu() for key in ("scores", "attention"))
        box = outputs["box"][0].cpu() * torch.tensor([width, height, width, height])
        return {"box": box, "scores": scores.softmax(-1), "attention": attention}

    # --- cost and files ---------------------------------------------------------------------------------------------

    def one_call(self, model: nn.Module, name: str) -> Callable:
        """One command on one image, text and crops included."""
        item = item_in_pixels(self.data.test, 0)
        encoders = dataclasses.replace(self.aligned, teacher=deepcopy(self.aligned.teacher).cpu())
        inputs = (item["image"], item["proposals"], item["command"])
        return lambda: self._predict_command(model, encoders, self.known[name], *inputs)

    def add_costs(self) -> None:
        super().add_costs()
        for result in self.results.values():
            result.numbers["fps"] = 1000 / result.numbers["latency_ms"]

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons, leaderboard files and metrics.json; returns the comparisons."""
        for name, result in self.results.items():
            write_predictions(self.run.folder / f"predictions_{name}.json", result.predictions)
        return super().save()
