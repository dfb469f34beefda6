"""The image-text teacher: an open_clip model, small from scratch or an original one, and its embeddings.

Images are uint8 (N, 3, H, W) and normalised here; embeddings are unit vectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdnb.distill.alignment import multi_positive_infonce
from kdnb.distill.taps import Taps
from kdnb.errors import InputError
from kdnb.models import pixels

MAX_SCALE = 100.0  # CLIP's bound on the learned logit scale

LITE_CONTEXT = 32  # tokens of a text that the small teacher reads, start and end included


def normalised(
    images: Tensor,
    mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
    std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
) -> Tensor:
    """``kdnb.models.pixels.normalised`` with CLIP's mean and standard deviation."""
    return pixels.normalised(images, mean, std)


def lite_teacher(
    embed_dim: int = 128,
    dims: Sequence[int] = (40, 80, 128, 192),
    text_width: int = 128,
    text_layers: int = 1,
    context_length: int = LITE_CONTEXT,
    image_size: int = 32,
) -> open_clip.CLIP:
    """A small CLIP with random weights, for small crops and short sentences; downloads nothing.

    The token embedding is random and frozen: its table has 49,408 rows, of which a rendered street uses a hundred, and
    updating all of them would take longer than the rest of the step. Random rows of this width are nearly orthogonal,
    and the transformer learns what they mean; but their scale must exceed CLIP's 0.02, or position embeddings dominate.

    Args:
        embed_dim: width of the joint space.
        dims: channels of the four stages of the image tower, a ConvNeXt with one block in each.
        context_length: tokens of a text, start and end included; longer texts are truncated.
    """
    model = open_clip.CLIP(
        embed_dim,
        {"timm_model_name": "test_convnext3", "timm_pool": "avg", "timm_proj": "linear", "image_size": image_size},
        {
            "context_length": context_length,
            "width": text_width,
            "heads": max(1, text_width // 32),
            "layers": text_layers,
        },
    )
    nn.init.normal_(model.token_embedding.weight, std=0.1)
    model.token_embedding.requires_grad_(False)
    # open_clip does not pass widths on to timm, so the trunk is replaced afterwards
    model.visual.trunk = timm.create_model("test_convnext3", num_classes=0, dims=tuple(dims), ls_init_value=1.0)
    model.visual.head.proj = nn.Linear(dims[-1], embed_dim, bias=False)
    model.visual.to(memory_format=torch.channels_last)  # a third faster on a CPU
    return model


def full_teacher(name: str = "ViT-B-32", pretrained: str | None = None) -> nn.Module:
    """An open_clip model by name, with the weights of a tag or file, or random ones for None.

    Raises:
        InputError: a name or weights that open_clip does not know or cannot download.
    """
    known = open_clip.list_models()
    if ":" not in name and name not in known:
        close = ", ".join(get_close_matches(name, known)) or "one of open_clip.list_models()"
        raise InputError(f"open_clip has no model {name!r}; expected {close}")
    try:
        return open_clip.create_model_and_transforms(name, pretrained=pretrained)[0]
    except (RuntimeError, OSError, ValueError) as error:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"open_clip {name!r} with weights {pretrained!r}: {reason} (known weights: {tags}; or a file's "
            "path; null for random ones)"
        ) from error


def use_normalisation(model: nn.Module, name: str, pretrained: str | None) -> nn.Module:
    """Let a model normalise images as the weights of a tag expect it, before it gets weights that came from them.

    open_clip itself knows only the tag that it loads; without one, it takes OpenAI's mean and spread.
    """
    config = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if "mean" in config and "std" in config:
        model.visual.image_mean, model.visual.image_std = config["mean"], config["std"]
    return model


def read_text_tower(path: str | Path) -> open_clip.CLIP:
    """A ``lite_teacher`` whose text tower has the weights of a file, such as ``weights/teacher.safetensors`` of a run
    of 01. Its image tower is random.

    Raises:
        InputError: a file that cannot be read, or that holds no such tower.
    """
    try:
        weights = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("visual.")}
        width, embed_dim = weights["text_projection"].shape
        layers = len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")})
        model = lite_teacher(
            embed_dim, text_width=width, text_layers=layers, context_length=len(weights["positional_embedding"])
        )
        model.load_state_dict({**model.state_dict(), **weights})
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: {reason}; expected the weights of a small CLIP, as 01 trains its teacher") from None
    return model


def build_tokenizer(name: str | None = None, context_length: int = LITE_CONTEXT) -> Callable[[list[str]], Tensor]:
    """Texts → (M, context_length) token ids, of one of open_clip's models.

    Without a name, those of the byte-pair vocabulary that comes with open_clip, cut at ``context_length``.
    """
    return open_clip.get_tokenizer(name) if name else open_clip.SimpleTokenizer(context_length=context_length)


def encode_images(model: nn.Module, images: Tensor) -> Tensor:
    """The teacher's unit image embeddings (N, D) of uint8 (N, 3, H, W), with gradient.

    Raises:
        InputError: images of another size than the model's.
    """
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, (tuple, list)) else (visual.image_size,) * 2
    if tuple(images.shape[-2:]) != tuple(size):
        raise InputError(f"images of {tuple(images.shape[-2:])} pixels, expected the teacher's {tuple(size)}")
    return F.normalize(model.encode_image(normalised_for(visual, images)).float(), dim=-1)


def normalised_for(visual: nn.Module, images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) → float, with the mean and standard deviation of this image tower."""
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return normalised(images, mean, std)


class TeacherTower(nn.Module):
    """The teacher's image tower as an encoder: its embedding is a map of one cell."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.visual = teacher.visual

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, D, 1, 1)."""
        return self.visual(normalised_for(self.visual, images))[:, :, None, None]


@torch.no_grad()
def encode_texts(model: nn.Module, tokenizer: Callable, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (M, D) of the texts, on the model's device; each distinct string is encoded once.

    Warns of the number of texts that exceed the tower's context and are truncated.

    Raises:
        InputError: no text at all, or an empty one.
    """
    distinct, which = distinct_texts(texts)
    warn_of_cut_texts(tokenizer, distinct)
    with evaluating(model):
        parts = [
            F.normalize(model.encode_text(tokens).float(), dim=-1)
            for tokens in token_batches(model, tokenizer, distinct)
        ]
    return torch.cat(parts)[which]


@torch.no_grad()
def encode_text_tokens(model: nn.Module, tokenizer: Callable, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The text tower's last hidden states, after its final normalisation and before pooling and projection.

    The towers' attention is causal: a token's state depends on the tokens before it only.

    Returns:
        states (M, L, W) and padding (M, L), True after the end-of-text token, a ``key_padding_mask`` of
        ``nn.MultiheadAttention``. L is the length of the longest text, in tokens.

    Raises:
        InputError: a text tower that does not pool at the end-of-text token; no text, or an empty one.
    """
    tower = getattr(model, "text", model)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    if pool != "argmax":
        raise InputError(
            f"the text tower pools by {pool!r}; token states need a tower that pools at the end of "
            "text ('argmax'), such as ViT-B-32's"
        )
    path = "ln_final" if tower is model else "text.ln_final"
    distinct, which = distinct_texts(texts)
    states, ends = [], []
    with evaluating(model), Taps(model, [path]) as tapped:
        for tokens in token_batches(model, tokenizer, distinct):
            model.encode_text(tokens)
            states.append(tapped[path].float())
            ends.append(tokens.argmax(1))  # the end of text has the highest id
    end = torch.cat(ends)[which]
    longest = int(end.max()) + 1
    return torch.cat(states)[which, :longest], torch.arange(longest, device=end.device) > end[:, None]


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct strings in order of appearance, and for each text the index of its string."""
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"text {i} is {text!r}, expected words")
    if not texts:
        raise InputError("no texts to encode, expected at least one")
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(places), [places[text] for text in texts]


def warn_of_cut_texts(tokenizer: Callable, texts: Sequence[str]) -> None:
    """One warning for all texts that exceed the context; Hugging Face's tokenizers are not checked."""
    if not hasattr(tokenizer, "encode") or not getattr(tokenizer, "context_length", None):
        return
    cut = [text for text in texts if len(tokenizer.encode(text)) + 2 > tokenizer.context_length]  # + start and end
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(texts)} texts are longer than {tokenizer.context_length} tokens and are "
            f"cut, such as {cut[0]!r}",
            stacklevel=3,
        )


def token_batches(model: nn.Module, tokenizer: Callable, texts: list[str], size: int = 256) -> Iterator[Tensor]:
    """Token ids (``size``, context_length) on the model's device, batch by batch."""
    device = next(model.parameters()).device
    return (tokenizer(texts[start : start + size]).to(device) for start in range(0, len(texts), size))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; restores the mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def contrastive_step(teacher: nn.Module, batch: dict) -> dict:
    """One step of training the teacher itself, both towers, for a ``Distiller`` without terms.

    Args:
        batch: "images" uint8 (N, 3, H, W); "tokens" (M, L) of distinct texts; "positive" (N, M) bool, all
            matching pairs.
    """
    texts = F.normalize(teacher.encode_text(batch["tokens"]).float(), dim=-1)
    images = encode_images(teacher, batch["images"])
    known = torch.ones(len(images), dtype=torch.bool, device=images.device)
    return {"loss": multi_positive_infonce(images, texts, batch["positive"], clipped_scale(teacher), known)}


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """Teacher outputs for a ``Distiller``: "embedding" (N, D), unit vectors of the images."""
    return {"embedding": encode_images(teacher, batch["images"])}


def clipped_scale(model: nn.Module) -> Tensor:
    """The learned logit scale, at most ``MAX_SCALE``."""
    return model.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()
