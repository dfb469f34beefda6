"""Dense features of a text-to-image diffusion model, as DIFF reads them (Ji et al. 2024, arXiv 2406.00777).

An image is encoded, a little noise is added, and one pass of the denoising U-Net, conditioned on the prompts, gives the
features: the maps of its upward path. Only the decoder on top is trained.
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

TAPS = r"up_blocks\.\d+\.(resnets\.\d+\.conv2|attentions\.\d+\.transformer_blocks\.0)"  # as in DIFF

# --- features ---------------------------------------------------------------------------------------------------


class DiffusionFeatures:
    """Images → maps of the U-Net's upward path, by forward hooks; deterministic.

    Deliberately not an ``nn.Module``, so that it stays out of the optimizer, DDP and the saved state.

    Args:
        model: from ``stable_diffusion``.
        prompts: {class: texts}, as from ``PromptSet.texts``; None for the empty prompt. Texts are encoded one by one,
            as together they exceed the context length, and the U-Net attends to all of their tokens.
        step: the time step of the noise, from 0 (none) to 999 (noise only); 100 leaves nine tenths of the variance.
        seed: of the noise, which is the same for all images of a size.
        short_side: pixels that the shorter side of an image is scaled to; None keeps the size.
        taps: paths of the U-Net's modules; None for all of DIFF's, which are 28 MB of a 512 px image in half
            precision.
        folder: where maps are kept, in half precision, one file per image; None computes them each time.
        mask_steps: DIFF's ``do_mask_steps``: the labels of a training batch choose the prompt of each cell. This leaks
            the ground truth into the features, which is missing at test time: it is implemented to measure that.

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
                "mask_steps leaks the ground truth into the teacher's features while it trains, and there is "
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
        """A hash of all that determines the maps except the image."""
        parts = [
            weights_hash(self.model.unet),
            weights_hash(self.model.vae),
            self.step,
            self.seed,
            self.short_side,
            self.taps,
            self.mask_steps,
            self.context.tolist(),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) → {block of the U-Net, "0" is the coarsest: float32 (N, C, h, w)}.

        Args:
            labels: (N, H, W), used by ``mask_steps`` only.
        """
        if self.folder is None:
            return self.compute(images, labels)
        self.folder.mkdir(parents=True, exist_ok=True)
        inputs = [images] if labels is None or not self.mask_steps else [images, labels]
        paths = [self.folder / f"{content_hash(*item)}.safetensors" for item in zip(*inputs, strict=True)]
        new = [i for i, path in enumerate(paths) if not path.exists()]
        if new:
            computed = self.compute(images[new], None if labels is None else labels[new])
            for row, i in enumerate(new):
                write_maps({block: maps[row] for block, maps in computed.items()}, paths[i])
        stored = [load_file(path) for path in paths]
        return {
            block: torch.stack([maps[block] for maps in stored]).to(images.device).float() for block in self.channels
        }

    @torch.no_grad()
    def compute(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """As a call, without the folder."""
        with torch.autocast(images.device.type, enabled=False):  # or stored maps would depend on the caller's precision
            latents = self.noisy(self.latents(images))
            maps = self.maps(latents, self.context)
            if labels is None or not self.mask_steps:
                return maps
            for k, context in enumerate(self.contexts):
                mask = (labels == k)[:, None].float()
                if mask.any():
                    of_class = self.maps(latents, context)
                    maps = {
                        block: torch.where(F.interpolate(mask, m.shape[2:], mode="nearest") > 0, of_class[block], m)
                        for block, m in maps.items()
                    }
            return maps

    def latents(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, 4, H/8, W/8): the mode of the encoder's distribution, not a sample."""
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
        """One pass of the U-Net on (N, 4, h, w) with prompt states (L, W) → {block: its taps, by channels}."""
        unet = self.model.unet.to(latents.device)
        states = context.to(latents.device, unet.dtype).expand(len(latents), -1, -1)
        with Taps(unet, self.taps) as tapped:
            unet(latents.to(unet.dtype), self.step, encoder_hidden_states=states)
        blocks: dict[str, list[Tensor]] = {}
        for path in self.taps:
            number = int(path.split(".")[1])
            value = tapped[path]
            if value.ndim == 3:  # attention flattens the cells
                halved = len(unet.up_blocks) - 1 - number
                size = [-(-side // 2**halved) for side in latents.shape[2:]]
                value = value.transpose(1, 2).unflatten(2, size)
            blocks.setdefault(str(number), []).append(value.float())
        return {block: torch.cat(values, 1) for block, values in sorted(blocks.items())}


def content_hash(*tensors: Tensor) -> str:
    """A hash of an image, or of an image and its labels."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def write_maps(maps: Mapping[str, Tensor], path: Path) -> None:
    """Write one image's maps in half precision, atomically."""
    with atomic_path(path) as part:
        save_file({block: m.half().cpu().contiguous() for block, m in maps.items()}, part)


# --- a segmenter of them ----------------------------------------------------------------------------------------


class DiffusionSegmenter(nn.Module):
    """Fuses the maps of all blocks into one and classifies its cells; also usable as the body of a ``PromptSegmenter``.

    Args:
        features: from the frozen diffusion model.
        classes: of the logits.
        width: channels of the fused map.
    """

    def __init__(self, features: DiffusionFeatures, classes: int = len(CLASSES), width: int = 256):
        super().__init__()
        self.features, self.channels = features, width
        self.blocks = list(features.channels)[::-1]  # finest first
        channels = [features.channels[block] for block in self.blocks]
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels)
        self.decode = Pyramid(channels, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.truth: Tensor | None = None  # set by ``diffusion_step`` in training, for mask_steps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) → "logits" (N, classes, H, W), "features" (N, width, h, w) of the finest block."""
        features = self.feature_map(images)
        return {"logits": resized(self.head(features), images.shape[2:]), "features": features}

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, width, h, w), the fused map."""
        maps = self.features(images, self.truth)
        return self.decode([norm(maps[block]) for norm, block in zip(self.norms, self.blocks, strict=True)])


def diffusion_step(model: nn.Module, batch: dict, class_weights: Tensor | None = None) -> dict:
    """``segmentation_step`` of a ``DiffusionSegmenter``, or of a ``PromptSegmenter`` on one.

    In training, features with ``mask_steps`` receive the labels.
    """
    body = getattr(model, "body", model)
    body.truth = batch["labels"] if model.training and body.features.mask_steps else None
    try:
        return segmentation_step(model, batch, class_weights)
    finally:
        body.truth = None
