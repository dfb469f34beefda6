"""02 Talk2Car grounding: the student of 01 finds the object that a command to the driver means.

What the notebook and ``python -m kdnb.projects.talk2car_grounding`` share: settings, data, networks and arms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdnb.datasets.region_views import cut, window
from kdnb.datasets.talk2car import HEIGHT, WIDTH, Command, Talk2Car, to_pixels
from kdnb.errors import InputError
from kdnb.models.clip import encode_text_tokens, encode_texts, normalised_for
from kdnb.models.grounding import Grounder
from kdnb.models.grounding_heads import ProjectionHead, TransformerHead
from kdnb.projects.aligned import Aligned
from kdnb.run import Settings
from kdnb.world.export_talk2car import rendered_talk2car

PROJECT = "02_talk2car_grounding"
PRIMARY = "AP50"
VIEWS = ("plain", "flip")


class Talk2CarGroundingSettings(Settings):
    """Settings of this project; ``settings/talk2car_grounding.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 480  # drawn, when no DATA is given
    validation_images: int = 80
    test_images: int = 140
    size: tuple[int, int] = (320, 180)  # width, height of a drawn picture
    proposals: int = 16  # of each picture, the best ones
    context: float = 1.2  # side of a crop over the longer side of its proposal
    few_labels: int = 100  # commands
    test_split: Literal["test", "val"] = "test"  # "val" also wherever test has no boxes, as the official one
    # encoders: those of this profile of 01
    encoders: str = "lite"
    encoder_data: str | None = None  # the COCO root 01 learned from, -p ENCODER_DATA; None is the drawn one
    whole_picture: int = 0  # RoIAlign on the picture at this width in place of crops; 0 crops
    # head
    width: int = 96
    layers: int = 2
    # training
    batch: int = 32
    head_steps: int
    finetune_steps: int
    finetune_batch: int = 8
    lr: float
    finetune_lr: float = 5.0e-4
    optimizer: str = "adamw_fused"
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]
    clip: float = 5.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 5
    processes: int = 1
    box_l1: float = 5.0  # the original's weights of a regressed box: L1, and generalised or complete IoU
    box_iou: float = 2.0
    box_overlap: Literal["giou", "ciou"] = "giou"


@dataclass(frozen=True)
class Arm:
    """A way to find the object. Everything not named here is the same in all arms.

    Attributes:
        encoder: "teacher", "random", or the arm of 01 whose student it is.
        head: "transformer" or "projection".
        mode: "rank" answers with one of the proposals; "regress" corrects each proposal's box and answers with their
            mean, weighted by the scores.
        finetune: then train encoder and head together, end to end.
        few_labels: only ``settings.few_labels`` commands have a box.
    """

    encoder: str
    head: str = "transformer"
    mode: str = "rank"
    finetune: bool = False
    few_labels: bool = False


ENCODERS = ("teacher", "baseline", "distilled", "random", "baseline_matched")
ARMS = {
    **{name: Arm(name) for name in ENCODERS},
    **{f"{name}_projection": Arm(name, "projection") for name in ENCODERS},
    "few_labels_baseline": Arm("baseline", few_labels=True),
    "few_labels_distilled": Arm("distilled", few_labels=True),
    "baseline_regress": Arm("baseline", mode="regress"),
    "distilled_regress": Arm("distilled", mode="regress"),
    "baseline_finetuned": Arm("baseline", finetune=True),
    "distilled_finetuned": Arm("distilled", finetune=True),
}
COMPARISONS = [
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("distilled", "random"),
    ("baseline", "random"),
    ("teacher", "distilled"),
    ("distilled_projection", "baseline_projection"),
    ("distilled", "distilled_projection"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("distilled_regress", "baseline_regress"),
    ("distilled_finetuned", "baseline_finetuned"),
    ("distilled_finetuned", "distilled"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """The three splits. ``key`` names them and all that was done to them, ``note`` what stands in for test, if so."""

    key: str
    train: Talk2Car
    validation: Talk2Car
    test: Talk2Car
    note: str = ""


def open_data(settings: Talk2CarGroundingSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The Talk2Car root at ``data``, or one drawn for these settings below ``root`` (found again next time).

    The official test set has no boxes. Then, or with ``test_split`` "val", arms are reported on val, and they are
    selected on the last scenes of train, at least an eighth of its commands.

    Raises:
        InputError: every fault of the files, no proposals file, commands to learn from or to score without a box.
    """
    drawn = data is None
    folder = data
    if drawn:
        folder = rendered_talk2car(
            root,
            train=settings.train_images,
            val=settings.validation_images,
            test=settings.test_images,
            size=settings.size,
            proposals=settings.proposals,
        )
    train, validation = (Talk2Car(folder, split, settings.proposals) for split in ("train", "val"))
    test, note = None, "test_split is 'val'"
    if settings.test_split == "test":
        test = Talk2Car(folder, "test", settings.proposals)
        if all(command.box is None for command in test.commands):
            test, note = None, f"{test.path} has no boxes"
    if test is None:
        test, validation = validation, Talk2Car(folder, "train", settings.proposals)
        train.commands, validation.commands = hold_out(train.commands)
        note += (
            f": scores are those of val, selection is on {len(validation)} commands of train's last scenes, "
            f"{len(train)} are left to learn from"
        )
    for part in (train, validation, test):
        if part.proposals is None:
            raise InputError(f"{folder}: no proposals file, expected one: the heads choose among proposals")
        without = [c.token for c in part.commands if c.box is None]
        if without:
            raise InputError(f"{part.path}: command {without[0]} has no box; expected boxes to train and score with")
    return Data(
        f"{Path(folder).resolve().name}-{len(train)}-{settings.proposals}-{settings.context}",
        train,
        validation,
        test,
        note if test.split == "val" else "",
    )


def hold_out(commands: list[Command], share: float = 1 / 8) -> tuple[list[Command], list[Command]]:
    """(kept, held out): whole scenes, from the last one on, until they hold at least ``share`` of the commands.

    Pictures of one scene show the same street seconds apart: cut within a scene, selection would see what was learned.
    A command without a scene counts by its picture.
    """
    scenes = [command.scene or command.image for command in commands]
    held: set[str] = set()
    count = 0
    for scene in reversed(dict.fromkeys(scenes)):
        if count >= share * len(commands):
            break
        held.add(scene)
        count += scenes.count(scene)
    if count == len(commands):
        raise InputError(f"train has {len(set(scenes))} scene, expected at least two: the last one is held out")
    return (
        [c for c, scene in zip(commands, scenes, strict=True) if scene not in held],
        [c for c, scene in zip(commands, scenes, strict=True) if scene in held],
    )


def normalize_boxes(boxes: Tensor) -> Tensor:
    """Boxes in 1600 x 900 → shares of the picture, 0 to 1."""
    return boxes / boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])


def picture_crops(picture: Tensor, proposals: Tensor, size: int, context: float) -> Tensor:
    """uint8 (3, H, W) and boxes (P, 4) in its pixels → uint8 (P, 3, size, size), square as in 01."""
    pixels = picture.permute(1, 2, 0).numpy()
    crops = [cut(pixels, window(box, "plain", context), size) for box in proposals.tolist()]
    return torch.from_numpy(np.stack(crops))


def whole_picture(picture: Tensor, width: int) -> Tensor:
    """The picture as uint8 (3, height, width) in the data set's 16 to 9."""
    small = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((width, round(width * HEIGHT / WIDTH)))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def item_in_pixels(part: Talk2Car, index: int) -> dict:
    """A command with its picture, all boxes in the picture's own pixels: "id", "image", "command", "box", "twin_box",
    "proposals"."""
    item, image = part[index], part.image(index)

    def scaled(boxes):
        return None if boxes is None else to_pixels(boxes, image.shape[2], image.shape[1])

    return {
        "id": item["token"],
        "image": image,
        "command": item["command"],
        "box": scaled(item["box"]),
        "twin_box": scaled(item["twin_box"]),
        "proposals": scaled(item["proposals"]),
    }


def grid_proposals(image: Tensor, across: int = 5, down: int = 3) -> Tensor:
    """(across · down, 4) overlapping boxes all over a picture, in its pixels: for one that no detector has seen."""
    height, width = image.shape[1:]
    step_x, step_y = width / (across + 1), height / (down + 1)
    return torch.tensor(
        [[step_x * x, step_y * y, step_x * (x + 2), step_y * (y + 2)] for y in range(down) for x in range(across)]
    )


def boxes_of(part: Talk2Car, most: int) -> dict[str, Tensor]:
    """ "boxes" (N, P, 4) as shares, "proposal_mask" (N, P), "truth" (N, 4), for all commands of a split."""
    boxes, proposal_mask, truth = torch.zeros(len(part), most, 4), torch.zeros(len(part), most, dtype=torch.bool), []
    for i in range(len(part)):
        item = part[i]
        count = len(item["proposals"])
        boxes[i, :count], proposal_mask[i, :count] = normalize_boxes(item["proposals"]), True
        boxes[i, count:] = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])  # any box with an area
        truth.append(normalize_boxes(item["box"]))
    return {"boxes": boxes, "proposal_mask": proposal_mask, "truth": torch.stack(truth)}


def texts_of(commands: list[str], aligned: Aligned) -> dict[str, Tensor]:
    """ "text" (N, E), "words" (N, L, W), "padding" (N, L) of the frozen text tower, L the tokens of its context."""
    return {**sentences_of(commands, aligned), "words": words_of(commands, aligned)}


def words_of(commands: list[str], aligned: Aligned) -> Tensor:
    """(N, L, W) on the CPU: the state of every token of the commands, filled up to the tower's context."""
    words, _ = encode_text_tokens(aligned.teacher, aligned.tokenizer, [command.lower() for command in commands])
    return F.pad(words, (0, 0, 0, context_length(aligned) - words.shape[1])).cpu()


def sentences_of(commands: list[str], aligned: Aligned) -> dict[str, Tensor]:
    """ "text" (N, E), a vector of each command, and "padding" (N, L), where its words have ended."""
    lower = [command.lower() for command in commands]
    text = encode_texts(aligned.teacher, aligned.tokenizer, lower).cpu()
    ends = aligned.tokenizer(lower).argmax(1)  # the end of text has the highest id
    return {"text": text, "padding": torch.arange(context_length(aligned)) > ends[:, None]}


def context_length(aligned: Aligned) -> int:
    return aligned.tokenizer(["a"]).shape[1]


MIRRORED = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}


def mirrored_text(command: str) -> str:
    """The command for the mirrored picture: left and right change places."""
    return re.sub(r"\b(left|right)(most)?\b", lambda word: MIRRORED[word[0]], command.lower())


def mirrored_boxes(boxes: Tensor) -> Tensor:
    """(..., 4) boxes as shares of the picture, mirrored left to right."""
    return boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1]) + boxes.new_tensor([1, 0, 1, 0])


class Grounded(Dataset):
    """``grounded[(index, view)]`` → what the model takes of one command in a view, "plain" or "flip".

    Args:
        views: view → tensors (N, ...) of all commands.
        pictures: ``pictures(index, view)`` gives {"crops": ...} or {"images": ...} where an encoder is trained too.
    """

    def __init__(self, views: dict[str, dict[str, Tensor]], pictures: Callable[[int, str], dict] | None = None):
        self.views, self.pictures = views, pictures

    def __len__(self) -> int:
        return len(self.views["plain"]["boxes"])

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        seen = self.pictures(index, view) if self.pictures else {}
        rows = {name: tensor[index] for name, tensor in self.views[view].items()}
        return {**{name: row.float() if row.dtype == torch.float16 else row for name, row in rows.items()}, **seen}


def collate(samples: list[dict]) -> dict:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


# --- networks ---------------------------------------------------------------------------------------------------


class TeacherTower(nn.Module):
    """The teacher's image tower as an encoder: its embedding is a map of one cell."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.visual = teacher.visual

    def feature_map(self, images: Tensor) -> Tensor:
        return self.visual(normalised_for(self.visual, images))[:, :, None, None]


def build(arm: Arm, settings: Talk2CarGroundingSettings, aligned: Aligned, seed: int) -> Grounder:
    """The arm's encoder, a copy, with a fresh head; arms of one head and mode start from the same weights."""
    encoder = TeacherTower(aligned.teacher) if arm.encoder == "teacher" else aligned.students[arm.encoder]
    sample = texts_of(["stop"], aligned)
    width, words = sample["text"].shape[-1], sample["words"].shape[-1]
    torch.manual_seed(seed)
    if arm.head == "projection":
        head = ProjectionHead(width, width, settings.width, arm.mode)
    else:
        head = TransformerHead(width, width, words, settings.width, settings.layers, arm.mode)
    return Grounder(deepcopy(encoder), head, frozen=not arm.finetune)


if __name__ == "__main__":
    from kdnb.projects.talk2car_experiment import main

    main()
