"""The teacher of image and text: an open_clip model, small from scratch or one of the originals, and what it says.

Images come in as uint8 (N, 3, H, W) and are normalised in here, in one place; embeddings go out as unit vectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

import open_clip
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.distill.alignment import multi_positive_infonce
from kdnb.distill.taps import Taps
from kdnb.errors import InputError
from kdnb.models import pixels

MAX_SCALE = 100.0  # CLIP's bound on the learned scale of logits


def normalised(images: Tensor, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD) -> Tensor:
    """``kdnb.models.pixels.normalised`` with the mean and spread that CLIP was trained with."""
    return pixels.normalised(images, mean, std)


def lite_teacher(
    embed_dim: int = 128,
    dims: Sequence[int] = (40, 80, 128, 192),
    text_width: int = 128,
    text_layers: int = 1,
    context_length: int = 32,
    image_size: int = 32,
) -> open_clip.CLIP:
    """A small CLIP from random weights, for small crops and short sentences; downloads nothing.

    The token embedding stays as it was drawn: its table has 49,408 rows, of which a drawn street uses some hundred, and
    an optimiser that visits all of them would take longer than the rest of the step. Random rows of this width are
    nearly orthogonal, and the transformer above them learns what they mean; but they must be larger than CLIP draws
    them (0.02), or the words drown in their positions.

    Args:
        embed_dim: width of the common space.
        dims: channels of the four stages of the image tower, a ConvNeXt with one block in each.
        context_length: tokens of a text, start and end included; what is longer is cut.
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
    # open_clip passes no widths on to timm, so the tower is changed afterwards
    model.visual.trunk = timm.create_model("test_convnext3", num_classes=0, dims=tuple(dims), ls_init_value=1.0)
    model.visual.head.proj = nn.Linear(dims[-1], embed_dim, bias=False)
    model.visual.to(memory_format=torch.channels_last)  # a third faster on a CPU
    return model


def full_teacher(name: str = "ViT-B-32", pretrained: str | None = None) -> nn.Module:
    """Any open_clip model by name, with the weights of a tag or file, or random ones for None.

    Raises:
        InputError: a name or weights that open_clip does not have or cannot fetch.
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
        raise InputError(f"open_clip {name!r} with weights {pretrained!r}: {reason} (known weights: {tags})") from error


def build_tokenizer(model: nn.Module, name: str | None = None) -> Callable[[list[str]], Tensor]:
    """Texts → (M, context_length) token ids. Without a name the byte-pair vocabulary that comes with open_clip."""
    return open_clip.get_tokenizer(name) if name else open_clip.SimpleTokenizer(context_length=model.context_length)


def encode_images(model: nn.Module, images: Tensor) -> Tensor:
    """The teacher's unit image embeddings (N, D) of uint8 (N, 3, H, W), with gradient unless the caller says otherwise.

    Raises:
        InputError: images of another size than the model's.
    """
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, (tuple, list)) else (visual.image_size,) * 2
    if tuple(images.shape[-2:]) != tuple(size):
        raise InputError(f"images of {tuple(images.shape[-2:])} pixels, expected the teacher's {tuple(size)}")
    return F.normalize(model.encode_image(normalised_for(visual, images)).float(), dim=-1)


def normalised_for(visual: nn.Module, images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) → float, with the mean and spread that this image tower was trained with."""
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return normalised(images, mean, std)


@torch.no_grad()
def encode_texts(model: nn.Module, tokenizer: Callable, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (M, D) of the texts, on the model's device; each distinct string is encoded once.

    Warns, with their number, of texts that are longer than the tower's context: their end is not read.

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

    Only what stands before a token is in its state: the towers attend to the left.

    Returns:
        states (M, L, W) and padding (M, L), True behind the end-of-text token, as ``key_padding_mask`` of
        ``nn.MultiheadAttention`` wants it. L is the longest of the texts, in tokens.

    Raises:
        InputError: a text tower that does not pool at the end-of-text token; no text, or an empty one.
    """
    tower = getattr(model, "text", model)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    if pool != "argmax":
        raise InputError(
            f"the text tower pools by {pool!r}; token states are read of towers that pool at the end of "
            "text ('argmax'), such as ViT-B-32's"
        )
    path = "ln_final" if tower is model else "text.ln_final"
    distinct, which = distinct_texts(texts)
    states, ends = [], []
    with evaluating(model), Taps(model, [path]) as seen:
        for tokens in token_batches(model, tokenizer, distinct):
            model.encode_text(tokens)
            states.append(seen[path].float())
            ends.append(tokens.argmax(1))  # the end of text has the highest id
    end = torch.cat(ends)[which]
    longest = int(end.max()) + 1
    return torch.cat(states)[which, :longest], torch.arange(longest, device=end.device) > end[:, None]


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct strings in order of appearance, and for each text which of them it is."""
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"text {i} is {text!r}, expected words")
    if not texts:
        raise InputError("no texts to encode, expected at least one")
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(places), [places[text] for text in texts]


def warn_of_cut_texts(tokenizer: Callable, texts: Sequence[str]) -> None:
    """One warning for all texts of more tokens than the context; Hugging Face's tokenizers do not tell."""
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
    device = next(model.parameters()).device
    return (tokenizer(texts[start : start + size]).to(device) for start in range(0, len(texts), size))


@contextmanager
def evaluating(model: nn.Module):
    """Eval mode for the block, and the mode of before after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def contrastive_step(teacher: nn.Module, batch: dict) -> dict:
    """One step of training the teacher itself, both towers, for a ``Distiller`` without terms.

    Args:
        batch: "images" uint8 (N, 3, H, W); "tokens" (M, L) of distinct texts; "positive" (N, M) bool, all that is true.
    """
    texts = F.normalize(teacher.encode_text(batch["tokens"]).float(), dim=-1)
    images = encode_images(teacher, batch["images"])
    known = torch.ones(len(images), dtype=torch.bool, device=images.device)
    return {"loss": multi_positive_infonce(images, texts, batch["positive"], clipped_scale(teacher), known)}


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """What a ``LiveTeacher`` says, and a ``TeacherCache`` keeps: "embedding" (N, D), unit vectors of the images."""
    return {"embedding": encode_images(teacher, batch["images"])}


def clipped_scale(model: nn.Module) -> Tensor:
    return model.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()
