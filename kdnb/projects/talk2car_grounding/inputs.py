"""What 02's networks read of the commands: boxes, texts, and crops or images; what frozen encoders say is kept."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from kdnb.datasets.talk2car import Talk2Car
from kdnb.datasets.talk2car_views import (
    VIEWS,
    Grounded,
    collate,
    item_in_pixels,
    mirrored_boxes,
    mirrored_text,
    proposal_crops,
    read_boxes,
    resize_image,
)
from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.experiment.teachers import load_batches
from kdnb.projects.coco_alignment.store import Aligned
from kdnb.projects.talk2car_grounding.arms import GroundingArm
from kdnb.projects.talk2car_grounding.data import Data, Talk2CarGroundingSettings
from kdnb.projects.talk2car_grounding.heads import build_grounder, encode_sentences, encode_words

MEMORY = 2**30  # bytes that crops may take


class CommandInputs:
    """All commands as the networks read them. A part is a split, or "train_flip", the mirrored train.

    Args:
        aligned: the networks of 01, the teacher on the device of ``acc``.
        folder: where the outputs of frozen networks are kept.
    """

    def __init__(
        self, settings: Talk2CarGroundingSettings, data: Data, aligned: Aligned, acc: Accelerator, folder: Path
    ):
        self.settings, self.data, self.aligned, self.acc, self.folder = settings, data, aligned, acc, folder
        self._crops: dict[tuple[str, int], Tensor] = {}
        self._tokens: dict[str, dict[str, Tensor]] = {}

    @property
    def splits(self) -> dict[str, Talk2Car]:
        return {"train": self.data.train, "validation": self.data.validation, "test": self.data.test}

    def dataset(self, split: str, arm: GroundingArm) -> Grounded:
        """The commands of a split as an arm reads them: kept cells, or images where the encoder is trained too."""
        parts = {view: split if view == "plain" else f"{split}_{view}" for view in VIEWS}
        views = {view: self.tensors[part] for view, part in parts.items() if part in self.tensors}
        if arm.start_from:
            return Grounded(views, lambda index, view: self.image(parts[view], index, arm.encoder))
        tokens = self.tokens(arm.encoder)
        return Grounded({view: {**some, "tokens": tokens[parts[view]]} for view, some in views.items()})

    @cached_property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Part → boxes, truth and texts of all its commands."""
        tensors = {}
        for split, data in self.splits.items():
            texts = self.texts(split, [command.text for command in data.commands])
            tensors[split] = {**read_boxes(data, self.settings.proposals), **texts}
        train = tensors["train"]
        mirrored = {name: mirrored_boxes(train[name]) for name in ("boxes", "truth")}
        texts = self.texts("train_flip", [mirrored_text(command.text) for command in self.data.train.commands])
        return {**tensors, "train_flip": {**train, **mirrored, **texts}}

    # --- what frozen networks say -----------------------------------------------------------------------------------

    def texts(self, part: str, commands: list[str]) -> dict[str, Tensor]:
        """As ``encode_commands``; the states of the words, in ``full`` 3 GB of all commands, are kept."""
        networks = self.aligned
        tower = LiveTeacher(networks.teacher, lambda _, batch, __: {"words": encode_words(batch["commands"], networks)})
        words = self.keep(f"words_{part}", tower, Grounded({"plain": {"commands": commands}}), "\n".join(commands))
        return {**encode_sentences(commands, networks), "words": words}

    def tokens(self, encoder: str) -> dict[str, Tensor]:
        """Part → (N, P, T, D): the cells of all proposals by a frozen encoder, computed once for all heads.

        In ``full`` they are 2.7 GB for each encoder. All processes of a training have to call this.
        """
        if encoder not in self._tokens:
            model = build_grounder(GroundingArm(encoder=encoder), self.settings, self.aligned, 0).to(self.acc.device)
            frozen = LiveTeacher(model, lambda model, batch, _: {"tokens": model.tokens(batch)})
            tokens = {}
            for part, tensors in self.tensors.items():
                boxes = {"plain": {"boxes": tensors["boxes"]}}
                images = Grounded(boxes, lambda index, _, part=part: self.image(part, index, encoder))
                tokens[part] = self.keep(f"tokens_{encoder}_{part}", frozen, images, self.data.key)
            self._tokens[encoder] = tokens
        return self._tokens[encoder]

    def keep(self, name: str, teacher: LiveTeacher, data: Grounded, key: str) -> Tensor:
        """What a frozen network says of all commands as they are, see ``TeacherOutputs``; the output is the first word
        of ``name``. Of whole images in half precision, an error of 5e-4."""
        output, dtype = name.partition("_")[0], torch.float16 if self.settings.whole_picture else torch.float32
        items = range(len(data))
        store = TeacherOutputs(teacher, self.folder / name, key, items, VIEWS[:1], [output], dtype)
        load = partial(load_batches, data, collate, items, self.settings.workers, self.acc.device)
        return store.fill(load, self.acc, 16).values[output]

    # --- images -----------------------------------------------------------------------------------------------------

    def image(self, part: str, index: int, encoder: str = "") -> dict[str, Tensor]:
        """What an encoder reads of a command: the crops of its proposals, or the whole image.

        The teacher's tower takes crops of one size only; students take either, as the settings say.
        """
        split, flip = part.removesuffix("_flip"), part.endswith("_flip")
        if self.settings.whole_picture and encoder != "teacher":
            name, image = "images", resize_image(self.splits[split].image(index), self.settings.whole_picture)
        else:
            name, image = "crops", self.crops(split, index)
        return {name: image.flip(-1) if flip else image}

    def crops(self, split: str, index: int) -> Tensor:
        """uint8 (P, 3, size, size): the crops of a command's proposals, from memory if all of them fit there."""
        if (split, index) in self._crops:
            return self._crops[split, index]
        item = item_in_pixels(self.splits[split], index)
        crops = proposal_crops(item["image"], item["proposals"], self.aligned.crop, self.settings.proposals)
        if self.crops_fit:
            self._crops[split, index] = crops
        return crops

    @cached_property
    def crops_fit(self) -> bool:
        """Whether the crops of all commands may stay in memory: 75 MB in ``lite``, but 46 GB in ``full``."""
        commands = sum(map(len, self.splits.values()))
        return commands * self.settings.proposals * 3 * self.aligned.crop**2 < MEMORY
