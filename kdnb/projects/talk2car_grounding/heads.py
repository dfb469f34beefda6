"""02's networks: an encoder of 01 under a fresh head, and the frozen text tower that reads the commands."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.models.clip import TeacherTower, encode_text_tokens, encode_texts
from kdnb.models.grounding import Grounder
from kdnb.models.grounding_heads import ProjectionHead, TransformerHead
from kdnb.projects.coco_alignment.store import Aligned
from kdnb.projects.talk2car_grounding.arms import GroundingArm
from kdnb.projects.talk2car_grounding.data import Talk2CarGroundingSettings


def build_grounder(arm: GroundingArm, settings: Talk2CarGroundingSettings, aligned: Aligned, seed: int) -> Grounder:
    """The arm's encoder, a copy, with a fresh head; arms of one head and mode start from the same weights."""
    encoder = TeacherTower(aligned.teacher) if arm.encoder == "teacher" else aligned.students[arm.encoder]
    sample = encode_commands(["stop"], aligned)
    width, words = sample["text"].shape[-1], sample["words"].shape[-1]
    torch.manual_seed(seed)
    if arm.head == "projection":
        head = ProjectionHead(width, width, settings.width, arm.mode)
    else:
        head = TransformerHead(width, width, words, settings.width, settings.layers, arm.mode)
    return Grounder(deepcopy(encoder), head, frozen=not arm.start_from)


def encode_commands(commands: Sequence[str], aligned: Aligned) -> dict[str, Tensor]:
    """ "text" (N, E), "words" (N, L, W) and "padding" (N, L) of the frozen text tower, L the tokens of its context."""
    return {**encode_sentences(commands, aligned), "words": encode_words(commands, aligned)}


def encode_words(commands: Sequence[str], aligned: Aligned) -> Tensor:
    """(N, L, W) on the CPU: the state of each token of the commands, padded to the tower's context."""
    words, _ = encode_text_tokens(aligned.teacher, aligned.tokenizer, [command.lower() for command in commands])
    return F.pad(words, (0, 0, 0, context_length(aligned) - words.shape[1])).cpu()


def encode_sentences(commands: Sequence[str], aligned: Aligned) -> dict[str, Tensor]:
    """ "text" (N, E), a unit vector of each command, and "padding" (N, L), True after its end."""
    lower = [command.lower() for command in commands]
    text = encode_texts(aligned.teacher, aligned.tokenizer, lower).cpu()
    ends = aligned.tokenizer(lower).argmax(1)  # the end of text has the highest id
    return {"text": text, "padding": torch.arange(context_length(aligned)) > ends[:, None]}


def context_length(aligned: Aligned) -> int:
    return aligned.tokenizer(["a"]).shape[1]
