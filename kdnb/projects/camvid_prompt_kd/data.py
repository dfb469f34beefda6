"""05's data: the three splits of a CamVid root, and the settings that say what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from kdnb.datasets.camvid import CLASSES, VOID, CamVid
from kdnb.datasets.segmentation import count_pixels
from kdnb.experiment import TrainSettings
from kdnb.options import Settings
from kdnb.world.export_camvid import rendered_camvid


class Network(Settings):
    """One segmenter. ``backbone`` "unet" is our small one, any other name is one of timm's."""

    backbone: str = "unet"
    width: int = 8  # channels: of the U-Net's finest feature map, or of the decoder over timm's
    pretrained: bool = False
    parts: dict[str, int] = {}  # of timm's EfficientNets, see ``kdnb.models.pretrained.image_backbone``


class CamVidPromptKdSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_frames: int = 500  # rendered, when no DATA is given
    val_frames: int = 60
    test_frames: int = 100
    size: tuple[int, int] = (160, 120)  # width, height of the frames that all networks get
    views: list[str] = ["plain", "flip"]  # of training frames; see ``SegmentationViews``
    num_color_jitters: int = 0  # of each view, beside the view itself
    augmentations: int = 0  # of each training frame, beside these; see ``kdnb.datasets.augment``
    kept_augmentations: int = 0  # those of them for which arms that keep their teacher's outputs do so
    # text
    prompts: str | None = None  # a YAML file; None for models/prompts_camvid.yaml
    text: str = "hashed"  # or "minilm", "clip" for one of open_clip's, a file of 01's teacher, a Hugging Face folder
    clip_model: str = "ViT-B-32"  # one of open_clip's, for text or teacher "clip"
    clip_weights: str | None = None  # such as "openai"; None for random ones
    # networks
    teacher: Literal["body", "clip", "diffusion"] = "body"  # where the teachers' features come from
    teacher_body: Network = Network(width=16)  # with "diffusion", its width is that of the decoder
    diffusion_model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # id or folder; "tiny" has random weights
    diffusion_side: int | None = None  # pixels that an image's shorter side is scaled to; None: as it is
    keep_features: bool = False  # of the diffusion model, on disk, below the run's folder
    mask_steps: bool = False  # the original's: feeds the truth to the teacher while it trains
    student: Network = Network()
    # training
    body_steps: int
    teacher_lr: float  # of the teachers, after the body's training
    # distillation
    temperature: float = 1.0
    kd_weight: float = 1.0  # of an arm's distillation term

    def offline(self) -> CamVidPromptKdSettings:
        """The same networks with random weights, to read trained ones into."""
        return super().offline().model_copy(update={"clip_weights": None})


@dataclass
class Data:
    """The three splits of a CamVid root. ``key`` identifies the splits and how they were made."""

    key: str
    train: CamVid
    validation: CamVid
    test: CamVid


def open_data(settings: CamVidPromptKdSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The CamVid root at ``data``, or one rendered for these settings below ``root`` (reused by later runs).

    The official splits are what their names say: everything is selected on val and reported on test. In the real set,
    val is a part of the drive 0016E5, of which train has another, while most of test is a drive absent from
    training: scores on val are higher, and the best arm on val may not be the best on test.
    """
    if data is None:
        frames = {split: getattr(settings, f"{split}_frames") for split in ("train", "val", "test")}
        data = rendered_camvid(root, **frames, size=settings.size)
    train, validation, test = (CamVid(data, split) for split in ("train", "val", "test"))
    return Data(f"{train.root.resolve().name}-{len(train)}-{settings.size}", train, validation, test)


def pixel_shares(data: Data) -> pd.DataFrame:
    """Percent of the labelled pixels that show each class (rows), in each split (columns)."""
    counts = {name: count_pixels(getattr(data, name))[:, :VOID].sum(0) for name in ("train", "validation", "test")}
    return pd.DataFrame({name: (100 * n / n.sum()).tolist() for name, n in counts.items()}, index=CLASSES)


def parts_by_drive(frames: CamVid) -> dict[str, list[int]]:
    """Frames of the longest drive, 0016E5 in CamVid, "elsewhere", those of all others "own"; see ``Project.parts``."""
    drives = [frame.name.partition("_")[0] for frame in frames.frames]
    longest = max(sorted(set(drives)), key=drives.count)
    parts: dict[str, list[int]] = {"own": [], "elsewhere": []}
    for index, drive in enumerate(drives):
        parts["elsewhere" if drive == longest else "own"].append(index)
    return parts
