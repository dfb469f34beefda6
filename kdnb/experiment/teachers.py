"""A teacher's outputs for all training items, kept for all arms of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.engine import dataloader_kwargs, move


def keep_teacher_outputs(experiment: Any, teacher: str) -> TeacherOutputs:
    """The outputs of an arm's network for all training items in all views, below the run's folder.

    All processes of a training call it; what is there already is only read.
    """
    data, plan, collate = experiment.teacher_batches()
    items, run = experiment.train_items(), experiment.settings.teachers_from or experiment.run.folder
    live = LiveTeacher(experiment.train(teacher).model, type(experiment).teacher_step)
    live.model.to(experiment.acc.device)
    kept, dtype = experiment.kept_outputs, experiment.kept_dtype
    store = TeacherOutputs(live, Path(run) / "cache", experiment.data.key, items.values(), plan.views, kept, dtype)
    loader = partial(load_batches, data, collate, list(items), experiment.settings.workers, experiment.acc.device)
    return store.fill(loader, experiment.acc, experiment.kept_batch)


def load_batches(
    data: Any, collate: Callable, indices: Sequence[int], workers: int, device: torch.device, batches: Sequence
) -> Iterator[dict]:
    """Collated batches on a device, from lists of (position in ``indices``, view)."""
    keys = [[(indices[position], view) for position, view in batch] for batch in batches]
    # a generator of its own: a loader otherwise takes numbers from the global one, and training would differ
    kwargs = {"generator": torch.Generator(), **dataloader_kwargs(workers)}
    loader = DataLoader(data, batch_sampler=keys, collate_fn=collate, **kwargs)
    return (move(batch, device) for batch in loader)
