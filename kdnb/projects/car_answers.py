"""06's answers: what networks say of pictures, what folds say together, and where that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kdnb.datasets.car_views import collate
from kdnb.engine import move
from kdnb.errors import InputError
from kdnb.run import atomic_write


@torch.no_grad()
def answers(model: nn.Module, views, keys: Iterable[tuple[int, str]], device="cpu", batch: int = 128) -> Tensor:
    """Logits (n, C), float32 on the CPU, of the pictures ``views[key]``; the network is left in the mode it was in."""
    keys, training, found = list(keys), model.training, []
    model.eval()
    for start in range(0, len(keys), batch):
        one = move(collate([views[key] for key in keys[start : start + batch]]), device)
        found.append(model(one["images"], one["meta"])["logits"].float().cpu())
    model.train(training)
    return torch.cat(found)


def out_of_fold(logits: Tensor, fold_of: np.ndarray) -> Tensor:
    """Of each picture the answer of the fold that has not trained on it.

    Args:
        logits: (F, ..., N, C).
        fold_of: (N,) 1 to F; see ``split_folds``.
    """
    chosen = torch.as_tensor(fold_of) - 1
    return logits[chosen, ..., torch.arange(len(chosen)), :].movedim(0, -2)


def keep(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write tensors to a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read(path: Path) -> dict[str, Tensor]:
    return load_file(path)


class StoredAnswers:
    """A teacher's answers to every picture in a few views: read in its place, as ``LiveTeacher`` would give them.

    Args:
        logits: (V, N, C), by view and by the picture's index in its data set.
        views: the names of the V views.
    """

    def __init__(self, logits: Tensor, views: Iterable[str]):
        self.logits, self.views = logits, {view: row for row, view in enumerate(views)}

    def observe(self, batch: dict, student_outputs: dict, taps: list[str]) -> dict[str, Tensor]:
        """{"logits": (n, C)} on the student's device. Raises InputError for a view or a picture that is not stored."""
        unknown = [view for view in batch["views"] if view not in self.views]
        if unknown:
            raise InputError(f"view {unknown[0]!r} was not answered by the teacher, expected one of {list(self.views)}")
        indices = batch["indices"].cpu()
        if int(indices.max()) >= self.logits.shape[1]:
            raise InputError(
                f"picture {int(indices.max())} was not answered by the teacher, which was asked about "
                f"{self.logits.shape[1]}"
            )
        rows = [self.views[view] for view in batch["views"]]
        return {"logits": self.logits[rows, indices].float().to(student_outputs["loss"].device)}
