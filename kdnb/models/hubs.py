"""Weights that others have trained, from their hubs: where they are not to be had, one line says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kdnb.errors import InputError


@contextmanager
def reachable(what: str, ways: str, random: str = "pretrained=false") -> Iterator[None]:
    """Turn any failure to load weights from a hub into one line.

    Args:
        what: is loaded.
        ways: to have it.
        random: the setting that does without; "" where nothing does.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # hubs raise their own kinds: no network, no such file, offline mode, a full disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        without = f". Random weights: the setting {random}" if random else ""
        raise InputError(f"{what} cannot be loaded ({reason}); expected {ways}{without}") from error


def timm_hub(name: str) -> str:
    """The ways to have timm's weights of a network."""
    return f"a network for timm's hub, or {name} in Hugging Face's cache ({hugging_face_cache()})"


@contextmanager
def torchvision_hub(name: str, pretrained: bool) -> Iterator[str | None]:
    """What torchvision takes as ``weights`` of a backbone: its ImageNet weights, or None.

    Raises:
        InputError: in the block, torchvision could not load them; names the file and its folder.
    """
    if not pretrained:
        yield None
        return
    from torchvision.models import get_model_weights

    file = Path(get_model_weights(name).DEFAULT.url).name
    ways = f"a network, or the file {file} in {Path(torch.hub.get_dir()) / 'checkpoints'}"
    with reachable(f"torchvision's ImageNet weights of {name!r}", ways):
        yield "DEFAULT"


def hugging_face_cache() -> str:
    """The folder in which Hugging Face's hub keeps what it has loaded, as its documentation names it."""
    return os.environ.get("HF_HOME", "~/.cache/huggingface")
