"""02 Talk2Car grounding, carried out: train a head on each encoder, score it, compare, and keep every finished arm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnb.datasets.talk2car import HEIGHT, WIDTH, Talk2Car, to_pixels
from kdnb.distill.distiller import Distiller
from kdnb.distill.teacher_outputs import weights_hash
from kdnb.engine import Plan, TrainHistory, accelerator, dataloader_kwargs, fit, move
from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.metrics.grounding import evaluate_talk2car, iou_per_command, write_predictions
from kdnb.models.grounding import Grounder, grounding_step
from kdnb.projects.aligned import Aligned, aligned
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.on_disk import kept_array
from kdnb.projects.talk2car_grounding import (
    ARMS,
    COMPARISONS,
    PRIMARY,
    PROJECT,
    VIEWS,
    Arm,
    Data,
    Grounded,
    Talk2CarGroundingSettings,
    boxes_of,
    build,
    collate,
    mirrored_boxes,
    mirrored_text,
    normalize_boxes,
    open_data,
    picture_crops,
    sentences_of,
    texts_of,
    whole_picture,
    words_of,
)
from kdnb.run import Run

MEMORY = 2**30  # bytes that crops may take


class Experiment:
    """All arms of one run of 02; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder."""

    def __init__(self, run: Run, settings: Talk2CarGroundingSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if not settings.whole_picture and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small crops gain nothing from a second thread
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        if settings.few_labels >= len(data.train):
            raise InputError(f"few_labels is {settings.few_labels}, expected fewer than the {len(data.train)} commands")
        order = np.random.default_rng((run.seed, 0)).permutation(len(data.train)).tolist()
        self.labelled = order[: settings.few_labels]
        self._crops: dict[tuple[str, int], Tensor] = {}
        self._tokens: dict[str, dict[str, Tensor]] = {}
        if data.note and self.acc.is_main_process:
            run.log(data.note)

    # --- what all arms share ------------------------------------------------------------------------------------

    @cached_property
    def aligned(self) -> Aligned:
        """Teacher and students of 01, found or trained now."""
        found = aligned(self.settings.encoders, self.run.seed, self.root, self.settings.encoder_data)
        found.teacher.to(self.acc.device)
        return found

    @cached_property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Part → boxes, truth and texts of all its commands; "train_flip" is the mirrored train."""
        found = {
            split: {**boxes_of(part, self.settings.proposals), **self._texts(split, [c.text for c in part.commands])}
            for split, part in self.parts.items()
        }
        train = found["train"]
        texts = self._texts("train_flip", [mirrored_text(c.text) for c in self.data.train.commands])
        found["train_flip"] = {
            "boxes": mirrored_boxes(train["boxes"]),
            "proposal_mask": train["proposal_mask"],
            "truth": mirrored_boxes(train["truth"]),
            **texts,
        }
        return found

    def _texts(self, split: str, commands: list[str]) -> dict[str, Tensor]:
        """As ``texts_of``; the states of the words, in ``full`` 3 GB of all commands, stay on disk."""

        def words(batches):
            for rows in batches:
                yield words_of(commands[rows.start : rows.stop], self.aligned)

        key = hashlib.sha256("\n".join([weights_hash(self.aligned.teacher), *commands]).encode()).hexdigest()[:12]
        kept = self._kept(f"words_{split}_{key}", len(commands), words)
        return {**sentences_of(commands, self.aligned), "words": kept}

    def _kept(self, name: str, count: int, produce) -> Tensor:
        """An array on disk, see ``kept_array``; of whole pictures in half precision, an error of 5e-4."""
        dtype = np.float16 if self.settings.whole_picture else np.float32
        return kept_array(self.run.folder / "cache" / f"{name}.npy", count, produce, self.acc, dtype)

    @property
    def parts(self) -> dict[str, Talk2Car]:
        return {split: getattr(self.data, split) for split in ("train", "validation", "test")}

    def picture(self, split: str, index: int, encoder: str = "") -> dict[str, Tensor]:
        """What an encoder sees of a command: its proposals' crops, or the whole picture.

        The teacher's tower takes crops of one size only; students take either, as the settings say.
        """
        split, flip = split.removesuffix("_flip"), split.endswith("_flip")
        part = self.parts[split]
        if self.settings.whole_picture and encoder != "teacher":
            picture = whole_picture(part.image(index), self.settings.whole_picture)
            return {"images": picture.flip(-1) if flip else picture}
        key = (split, index)
        crops = self._crops.get(key)
        if crops is None:
            crops = self.crops(part.image(index), part[index]["proposals"])
            if self._crops_fit:
                self._crops[key] = crops
        return {"crops": crops.flip(-1) if flip else crops}

    @cached_property
    def _crops_fit(self) -> bool:
        """Whether the crops of all commands may stay in memory: 75 MB in ``lite``, but 46 GB in ``full``."""
        commands = sum(map(len, self.parts.values()))
        return commands * self.settings.proposals * 3 * self.aligned.crop**2 < MEMORY

    def crops(self, picture: Tensor, proposals: Tensor) -> Tensor:
        """uint8 (P, 3, size, size) of a picture and boxes in 1600 x 900, filled up with grey to the usual P."""
        size, most = self.aligned.crop, self.settings.proposals
        pixels = to_pixels(proposals, picture.shape[2], picture.shape[1])
        crops = torch.full((most, 3, size, size), 128, dtype=torch.uint8)
        crops[: len(proposals)] = picture_crops(picture, pixels, size, self.settings.context)
        return crops

    def tokens(self, encoder: str) -> dict[str, Tensor]:
        """Part → (N, P, T, D): the cells of every proposal by a frozen encoder, computed once for all heads.

        They stay on disk; in ``full`` they are 2.7 GB for each encoder. All processes of a training have to call this.
        """
        if encoder not in self._tokens:
            model = build(Arm(encoder), self.settings, self.aligned, 0)
            name = f"tokens_{encoder}_{weights_hash(model.encoder)[:12]}"
            model = model.to(self.acc.device).eval()
            self._tokens[encoder] = {
                split: self._kept(f"{name}_{split}", len(some["boxes"]), partial(self._encode, model, split, encoder))
                for split, some in self.tensors.items()
            }
        return self._tokens[encoder]

    def _encode(self, model: Grounder, split: str, encoder: str, batches: list[range]) -> Iterator[Tensor]:
        """The cells of the commands in each batch."""
        seen = Grounded(
            {"plain": {"boxes": self.tensors[split]["boxes"]}}, lambda index, _: self.picture(split, index, encoder)
        )
        for batch in self._load(seen, batches):
            with torch.inference_mode():
                tokens = model.tokens(batch)
            yield tokens

    def _load(self, data: Grounded, batches: list[range]) -> Iterator[dict]:
        """Batches of commands as they are, on the device."""
        keys = [[(index, "plain") for index in batch] for batch in batches]
        loader = DataLoader(
            data,
            batch_sampler=keys,
            collate_fn=collate,
            generator=torch.Generator(),
            **dataloader_kwargs(self.settings.workers),
        )
        return (move(batch, self.acc.device) for batch in loader)

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train an arm of ARMS, or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def train_all(self, ablations: bool = False) -> None:
        """All arms; there are no others."""
        self.train_together(*ARMS)

    def _prepare(self, new: list[str]) -> None:
        for encoder in {ARMS[name].encoder for name in new if not ARMS[name].finetune}:
            self.tokens(encoder)

    def learns_from_teacher(self, name: str) -> bool:
        """The heads learn from boxes alone: what was distilled are the encoders, in 01."""
        return False

    def needs(self, name: str) -> list[str]:
        return [start_of(name)] if ARMS[name].finetune else []

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.talk2car_grounding", self.run, self.root, names, claims)

    def _fit(self, name: str) -> Result:
        arm, settings = ARMS[name], self.settings
        # every arm of a head and mode starts from the same weights: what differs is the encoder beneath it
        model = build(arm, settings, self.aligned, self.run.seed)
        if arm.finetune:
            model.load_state_dict(self.train(start_of(name)).model.state_dict())
        items = self.labelled if arm.few_labels else range(len(self.data.train))
        steps, batch, lr = (
            (settings.finetune_steps, settings.finetune_batch, settings.finetune_lr)
            if arm.finetune
            else (settings.head_steps, settings.batch, settings.lr)
        )

        def step(model, batch):
            return grounding_step(model, batch, settings.box_l1, settings.box_iou, settings.box_overlap)

        def validate(_):
            boxes = self.boxes(model, self.inputs("validation", arm))
            return evaluate_talk2car(self.data.validation.commands, self.predictions("validation", boxes))[PRIMARY]

        torch.manual_seed(self.run.seed)
        fitted = fit(
            Distiller(model, student_step=step),
            self.inputs("train", arm),
            Plan([(items, min(batch, len(items)))], VIEWS, self.run.seed),
            train_config(settings, steps, lr),
            collate=collate,
            name=name,
            checkpoint=self._checkpoint(name),
            validate=validate,
        )
        return self._finish(name, model, fitted)

    def _checkpoint(self, name: str) -> Path | None:
        return self.run.folder / "checkpoints" / f"{name}.pt" if self.settings.checkpoint_every else None

    def inputs(self, split: str, arm: Arm) -> Grounded:
        """The commands of a split as an arm reads them: kept cells, or pictures where the encoder is trained too."""
        names = {view: split if view == "plain" else f"{split}_{view}" for view in VIEWS}
        views = {view: self.tensors[name] for view, name in names.items() if name in self.tensors}
        if arm.finetune:
            return Grounded(views, lambda index, view: self.picture(names[view], index, arm.encoder))
        tokens = self.tokens(arm.encoder)
        return Grounded({view: {**some, "tokens": tokens[names[view]]} for view, some in views.items()})

    @torch.inference_mode()
    def boxes(self, model: Grounder, data: Grounded) -> Tensor:
        """(N, 4) answers to all commands, as shares of the picture, on the CPU."""
        training, size = model.training, 64 if "tokens" in data.views["plain"] else 16
        model.eval()
        batches = [range(start, min(start + size, len(data))) for start in range(0, len(data), size)]
        found = [model(batch)["box"].float().cpu() for batch in self._load(data, batches)]
        model.train(training)
        return torch.cat(found)

    def predictions(self, split: str, boxes: Tensor) -> dict[str, list[float]]:
        """{token: [x, y, w, h]} in 1600 x 900, as the leaderboard takes it."""
        scaled = boxes.clamp(0, 1) * boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        corner, size = scaled[:, :2], (scaled[:, 2:] - scaled[:, :2]).clamp(min=1.0)
        return {
            command.token: row
            for command, row in zip(self.parts[split].commands, torch.cat([corner, size], 1).tolist(), strict=True)
        }

    def _finish(self, name: str, model: Grounder, fitted: TrainHistory) -> Result:
        predictions = self.predictions("test", self.boxes(model, self.inputs("test", ARMS[name])))
        scores = evaluate_talk2car(self.data.test.commands, predictions)
        # the text tower is the teacher's and the same for all: it is part of an answer's time, not of an arm's size
        text = count_parameters(self.aligned.teacher) - count_parameters(self.aligned.teacher.visual)
        numbers = {
            **scores,
            "params": count_parameters(model),
            "params_text": text,
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc),
            "steps": fitted.steps,
        }
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        result = Result(model, predictions, numbers, validation, fitted)
        if self.acc.is_main_process:
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> nn.Module:
        return build(ARMS[name], self.settings, self.aligned, 0).to(self.acc.device)

    # --- evidence and answers -----------------------------------------------------------------------------------

    def ious(self, name: str) -> np.ndarray:
        """(N,) overlap of each test command's answer with its box, in the order of the commands."""
        return iou_per_command(self.data.test.commands, self.results[name].answers)

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over the test commands."""

        def metric(name):
            return mean_metric(100 * (self.ious(name) > 0.5))

        return compare_arms(self.results, COMPARISONS, metric, len(self.data.test))

    @torch.inference_mode()
    def ask(self, name: str, picture: Tensor, proposals: Tensor, command: str) -> dict[str, Tensor]:
        """An arm's answer to any command on any picture.

        Args:
            picture: uint8 (3, H, W); proposals: (P, 4) in its pixels.

        Returns:
            "box" (4,) in the picture's pixels; "scores" (P,) and "attention" (P,), each summing to 1.
        """
        model, most = self.train(name).model.eval(), self.settings.proposals
        full = proposals[:most] * proposals.new_tensor([WIDTH / picture.shape[2], HEIGHT / picture.shape[1]] * 2)
        count, boxes = len(full), torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(most, 1)
        boxes[:count] = normalize_boxes(full)
        seen = (
            {"images": whole_picture(picture, self.settings.whole_picture)}
            if self.settings.whole_picture and ARMS[name].encoder != "teacher"
            else {"crops": self.crops(picture, full)}
        )
        text = {key: value[0] for key, value in texts_of([command], self.aligned).items()}
        batch = collate([{**seen, **text, "boxes": boxes, "proposal_mask": torch.arange(most) < count}])
        found = model(move(batch, self.acc.device))
        size = torch.tensor([picture.shape[2], picture.shape[1]] * 2)
        return {
            "box": found["box"][0].cpu() * size,
            "scores": found["scores"][0].softmax(-1)[:count].cpu(),
            "attention": found["attention"][0][:count].cpu(),
        }

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one command on one picture, crops included, each kind of network in turn."""
        item = self.data.test[0]
        picture = self.data.test.image(0)
        proposals = to_pixels(item["proposals"], picture.shape[2], picture.shape[1])
        kinds = {kind_of(name): name for name in self.results}
        calls = {
            kind: lambda name=name: self.ask(name, picture, proposals, item["command"]) for kind, name in kinds.items()
        }
        add_costs(self.results, calls, kind_of)
        for result in self.results.values():
            result.numbers["fps"] = 1000 / result.numbers["latency_ms"]

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons, leaderboard files and metrics.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        for name, result in self.results.items():
            write_predictions(self.run.folder / f"predictions_{name}.json", result.answers)
        arms = {name: result.numbers for name, result in self.results.items()}
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons


def start_of(name: str) -> str:
    """The arm that a fine-tuned one goes on from."""
    return name.removesuffix("_finetuned")


def kind_of(name: str) -> str:
    """Arms with the same networks: the encoder's size, the head, the mode."""
    arm = ARMS[name]
    return f"{'teacher' if arm.encoder == 'teacher' else 'student'} {arm.head} {arm.mode}"


main = headless(PROJECT, Talk2CarGroundingSettings, open_data, Experiment, tuple(ARMS))
