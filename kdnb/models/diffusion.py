"""Dense features of a text-to-image diffusion model, as DIFF reads them (Ji et al. 2024, arXiv 2406.00777).

An image is encoded, a little noise is added, and the U-Net that would take the noise away again is run once: what it
computes on its way up knows what stands where. It is told the prompts meanwhile. Only the decoder on top is trained.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES
from kdnb.distill.taps import Taps
from kdnb.distill.teacher_outputs import weights_hash
from kdnb.errors import InputError
from kdnb.files import atomic_path
from kdnb.models.segmenter import Pyramid, pixels, resized, segmentation_step
from kdnb.models.stable_diffusion import Diffusion

TAPS = r"up_blocks\.\d+\.(resnets\.\d+\.conv2|attentions\.\d+\.transformer_blocks\.0)"  # what DIFF reads

# --- features ---------------------------------------------------------------------------------------------------


class DiffusionFeatures:
    """Images → maps of the U-Net's way up, by forward hooks; the same image always gives the same maps.

    It is deliberately no ``nn.Module``, so that it stays out of the optimiser, DDP and the saved state.

    Args:
        model: from ``stable_diffusion``.
        prompts: {class: texts}, as ``PromptSet.texts`` gives; None for the empty prompt. Every text is encoded by
            itself and the U-Net looks at all of their tokens, since together they are longer than a text may be.
        step: the time step of the noise, from 0 for none to 999 for nothing else; 100 leaves nine tenths.
        seed: of the noise, which is the same for every image of a size.
        short_side: pixels that the shorter side of an image is scaled to; None for as it is.
        taps: paths of the U-Net's modules; None for all of DIFF's, which are 28 MB of a 512 px image in half
            precision.
        folder: where maps are kept, in half precision, one file per image; None computes them each time.
        mask_steps: DIFF's ``do_mask_steps``; the labels of a training batch choose each cell's prompt. This feeds the
            truth to the features, while at test time there is none: it is here to be measured.

    Raises:
        InputError: a step beyond the schedule.
    """

    def __init__(
        self,
        model: Diffusion,
        prompts: Mapping[str, Sequence[str]] | None = None,
        step: int = 100,
        seed: int = 0,
        short_side: int | None = None,
        taps: Sequence[str] | None = None,
        folder: str | Path | None = None,
        mask_steps: bool = False,
    ):
        if not 0 <= step < len(model.alphas):
            raise InputError(f"time step {step}, expected 0 to {len(model.alphas) - 1}")
        if mask_steps:
            warnings.warn(
                "mask_steps feeds the ground truth to the teacher's features while it trains, and there is "
                "none at test time: its training scores mean nothing",
                stacklevel=2,
            )
        self.model, self.step, self.seed, self.short_side, self.mask_steps = model, step, seed, short_side, mask_steps
        modules = dict(model.unet.named_modules())
        self.taps = [path for path in modules if re.fullmatch(TAPS, path)] if taps is None else list(taps)
        self.contexts = [torch.cat(model.encode(texts)) for texts in (prompts or {"": [""]}).values()]
        self.context = torch.cat(self.contexts)
        self.folder = None if folder is None else Path(folder) / f"diffusion_{self.key()}"
        self.channels = {block: m.shape[1] for block, m in self.compute(torch.zeros(1, 3, 64, 64).byte()).items()}

    def key(self) -> str:
        """A hash of all that the maps hang on but the image."""
        how = [
            weights_hash(self.model.unet),
            weights_hash(self.model.vae),
            self.step,
            self.seed,
            self.short_side,
            self.taps,
            self.mask_steps,
            self.context.tolist(),
        ]
        return hashlib.sha256(repr(how).encode()).hexdigest()[:16]

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) → {block of the U-Net, "0" is the coarsest: float32 (N, C, h, w)}.

        Args:
            labels: (N, H, W), what ``mask_steps`` tells.
        """
        if self.folder is None:
            return self.compute(images, labels)
        self.folder.mkdir(parents=True, exist_ok=True)
        told = [images] if labels is None or not self.mask_steps else [images, labels]
        paths = [self.folder / f"{content(*one)}.safetensors" for one in zip(*told, strict=True)]
        new = [i for i, path in enumerate(paths) if not path.exists()]
        if new:
            found = self.compute(images[new], None if labels is None else labels[new])
            for place, i in enumerate(new):
                write({block: maps[place] for block, maps in found.items()}, paths[i])
        kept = [load_file(path) for path in paths]
        return {block: torch.stack([one[block] for one in kept]).to(images.device).float() for block in self.channels}

    @torch.no_grad()
    def compute(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """As a call, but without the folder."""
        with torch.autocast(images.device.type, enabled=False):  # or kept maps would hang on how others train
            latents = self.noisy(self.latents(images))
            found = self.maps(latents, self.context)
            if labels is None or not self.mask_steps:
                return found
            for k, context in enumerate(self.contexts):
                told = (labels == k)[:, None].float()
                if told.any():
                    own = self.maps(latents, context)
                    found = {
                        block: torch.where(F.interpolate(told, m.shape[2:], mode="nearest") > 0, own[block], m)
                        for block, m in found.items()
                    }
            return found

    def latents(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, 4, H/8, W/8): the mode of what the encoder says, not a sample of it."""
        x, vae = pixels(images), self.model.vae.to(images.device)
        cell = 2 ** (len(vae.config.block_out_channels) - 1)
        factor = (self.short_side or min(x.shape[2:])) / min(x.shape[2:]) / cell
        size = [cell * max(1, round(side * factor)) for side in x.shape[2:]]
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        return vae.encode(x).latent_dist.mode() * vae.config.scaling_factor

    def noisy(self, latents: Tensor) -> Tensor:
        """√ᾱ · latents + √(1 − ᾱ) · noise (Ho et al. 2020, arXiv 2006.11239, equation 4)."""
        noise = torch.randn(1, *latents.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        alpha = self.model.alphas[self.step].item()
        return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents)

    def maps(self, latents: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Run the U-Net on (N, 4, h, w) with a prompt (L, W); the taps of each block, stacked along the channels."""
        unet = self.model.unet.to(latents.device)
        told = context.to(latents.device, unet.dtype).expand(len(latents), -1, -1)
        with Taps(unet, self.taps) as seen:
            unet(latents.to(unet.dtype), self.step, encoder_hidden_states=told)
        blocks: dict[str, list[Tensor]] = {}
        for path in self.taps:
            number = int(path.split(".")[1])
            value = seen[path]
            if value.ndim == 3:  # an attention's cells stand in a row
                halved = len(unet.up_blocks) - 1 - number
                size = [-(-side // 2**halved) for side in latents.shape[2:]]
                value = value.transpose(1, 2).unflatten(2, size)
            blocks.setdefault(str(number), []).append(value.float())
        return {block: torch.cat(values, 1) for block, values in sorted(blocks.items())}


def content(*tensors: Tensor) -> str:
    """A hash of an image, or of an image and its labels: a flipped one has another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def write(maps: Mapping[str, Tensor], path: Path) -> None:
    """In half precision, under a temporary name first: a killed run leaves no broken file."""
    with atomic_path(path) as part:
        save_file({block: one.half().cpu().contiguous() for block, one in maps.items()}, part)


# --- a segmenter of them ----------------------------------------------------------------------------------------


class DiffusionSegmenter(nn.Module):
    """Aggregates the maps of all blocks into one, and names pixels by it; a body of ``PromptSegmenter`` as well.

    Args:
        features: from the frozen diffusion model.
        classes: of the logits.
        width: channels of the aggregated map.
    """

    def __init__(self, features: DiffusionFeatures, classes: int = len(CLASSES), width: int = 256):
        super().__init__()
        self.features, self.channels = features, width
        self.blocks = list(features.channels)[::-1]  # finest first
        channels = [features.channels[block] for block in self.blocks]
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels)
        self.decode = Pyramid(channels, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.truth: Tensor | None = None  # what ``diffusion_step`` tells while it trains, with mask_steps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) → "logits" (N, classes, H, W), "features" (N, width, h, w) of the finest block."""
        features = self.feature_map(images)
        return {"logits": resized(self.head(features), images.shape[2:]), "features": features}

    def feature_map(self, images: Tensor) -> Tensor:
        maps = self.features(images, self.truth)
        return self.decode([norm(maps[block]) for norm, block in zip(self.norms, self.blocks, strict=True)])


def diffusion_step(model: nn.Module, batch: dict, class_weights: Tensor | None = None) -> dict:
    """``segmentation_step`` of a ``DiffusionSegmenter``, or of a ``PromptSegmenter`` on one.

    While the model trains and its features have ``mask_steps``, they are told the labels.
    """
    body = getattr(model, "body", model)
    body.truth = batch["labels"] if model.training and body.features.mask_steps else None
    try:
        return segmentation_step(model, batch, class_weights)
    finally:
        body.truth = None
