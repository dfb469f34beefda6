"""01's networks and terms: similarity KD, cosine and L2 between student and teacher embeddings of a crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnb.datasets.region_views import RegionViews
from kdnb.datasets.region_views import collate as collate_crops
from kdnb.distill.alignment import embedding_l2, similarity_kd
from kdnb.distill.losses import cosine_loss
from kdnb.distill.terms import Term, choose_terms
from kdnb.engine import dataloader_kwargs
from kdnb.models.alignment import Student
from kdnb.models.clip import build_tokenizer, encode_images, encode_texts, full_teacher, lite_teacher
from kdnb.models.pretrained_clip import pretrained_clip, pretrained_tokenizer
from kdnb.projects.coco_alignment.data import CocoAlignmentSettings

KD = ("similarity", "cosine")


# --- networks -------------------------------------------------------------------------------------------------------


def build_teacher(settings: CocoAlignmentSettings, seed: int) -> nn.Module:
    """A CLIP: both towers."""
    torch.manual_seed(seed)
    network = settings.teacher
    if network.name == "small":
        return lite_teacher(network.width, network.dims, text_layers=network.text_layers, image_size=settings.crop)
    if network.name == "pretrained":
        return pretrained_clip(network.width, settings.crop, network.pretrained is not None)
    return full_teacher(network.name, network.pretrained)


def tokenizer_of(settings: CocoAlignmentSettings) -> Callable:
    """Texts -> (M, L) token ids for the teacher."""
    if settings.teacher.name == "pretrained":
        return pretrained_tokenizer()
    return build_tokenizer(None if settings.teacher.name == "small" else settings.teacher.name)


def width_of(teacher: nn.Module) -> int:
    """D, the width of the space that images and texts share."""
    if hasattr(teacher, "text_projection"):
        return teacher.text_projection.shape[1]
    tower = teacher.text  # open_clip's own, or one of Hugging Face
    projection = tower.text_projection if hasattr(tower, "text_projection") else tower.proj
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def build_student(settings: CocoAlignmentSettings, width: int, seed: int) -> Student:
    """A ConvNeXt whose embeddings have ``width`` numbers."""
    torch.manual_seed(seed)
    s = settings.student
    return Student(s.backbone, width, s.pretrained, s.output_stride, s.multi_scale)


# --- embeddings -----------------------------------------------------------------------------------------------------


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Unit embeddings (N, D) of uint8 crops, by a teacher's image tower or by a student, on the model's device."""
    images = images.to(next(model.parameters()).device)
    return encode_images(model, images) if hasattr(model, "visual") else F.normalize(model(images).float(), dim=-1)


@torch.inference_mode()
def encode_crops(model: nn.Module, crops: RegionViews, size: int = 256, workers: int = 0) -> Tensor:
    """Unit embeddings (N, D), on the CPU, of all regions in the plain view; ``workers`` processes cut the crops."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    keys = [(index, "plain") for index in crops.indices]
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    kwargs = {"generator": torch.Generator(), **dataloader_kwargs(workers)}
    loader = DataLoader(crops, batch_sampler=batches, collate_fn=collate_crops, **kwargs)
    parts = [embed(model, batch["images"].to(device)).cpu() for batch in loader]
    model.train(training)
    return torch.cat(parts)


def text_encoder(teacher: nn.Module, tokenizer: Callable) -> Callable[[list[str]], Tensor]:
    """Texts -> (M, D) unit embeddings of the teacher's text tower, on the CPU; each text is encoded once."""
    known: dict[str, Tensor] = {}

    def encode(texts: list[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode_texts(teacher, tokenizer, new).cpu(), strict=True))
        return torch.stack([known[text] for text in texts])

    return encode


# --- terms ----------------------------------------------------------------------------------------------------------


def build_terms(names: Sequence[str], settings: CocoAlignmentSettings, bank: Tensor, scale: float) -> list[Term]:
    """The terms with these names; InputError for another name.

    Args:
        bank: (M, D) unit embeddings of the prompts that the similarity term ranks.
        scale: the teacher's scale of logits.
    """

    def ranking(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        prompts = bank.to(student_embedding.device)
        return similarity_kd(student_embedding, teacher_embedding, prompts, scale, settings.temperature)

    term = partial(Term, student="embedding", teacher="embedding")
    terms = [
        term("similarity", ranking, weight=settings.similarity_weight),
        term("cosine", cosine_loss, weight=settings.cosine_weight),
        term("l2", embedding_l2, weight=settings.l2_weight),
    ]
    return choose_terms(terms, names)
