"""Crops of objects with their category as the class, in the form that classifiers take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.data import Dataset

from kdnb.datasets.region_views import RegionViews


class StreetCrops(Dataset):
    """``crops[(row, view)]`` → one object, as ``car_views.collate`` and ``classifier_step`` take it.

    A sample is {"id": str, "view": str, "image": uint8 (3, h, h), "meta": float (0,), "label": int, -1 if it may not be
    used, "labelled": bool, "index": row}.

    Args:
        regions: the crops; see ``RegionViews`` for the views.
        classes: names of the categories to keep; objects of others are left out.
        labelled: rows whose labels may be used, None means all.

    Attributes:
        indices: of the rows' regions; ids: theirs; labels: (N,) class numbers of the rows.
    """

    def __init__(self, regions: RegionViews, classes: list[str], labelled: Iterable[int] | None = None):
        self.regions, self.classes = regions, classes
        of_index = {index: regions.data.regions[index].category for index in regions.indices}
        self.indices = [index for index, category in of_index.items() if category in classes]
        self.ids = [regions.data.regions[index].id for index in self.indices]
        self.labels = np.array([classes.index(of_index[index]) for index in self.indices])
        self.labelled = None if labelled is None else set(labelled)

    def with_labels(self, labelled: Iterable[int] | None) -> StreetCrops:
        """The same crops, of which only these rows have labels."""
        return StreetCrops(self.regions, self.classes, labelled)

    def by_size(self, label: int) -> list[int]:
        """Rows of a class, those of the largest boxes first."""

        def side(row: int) -> float:
            x1, y1, x2, y2 = self.regions.data.regions[self.indices[row]].box
            return max(x2 - x1, y2 - y1)

        return sorted(np.flatnonzero(self.labels == label).tolist(), key=side, reverse=True)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        row, view = key
        crop, known = self.regions[self.indices[row], view], self.labelled is None or row in self.labelled
        return {
            "id": self.ids[row],
            "view": view,
            "image": crop["image"],
            "meta": torch.zeros(0),
            "label": int(self.labels[row]) if known else -1,
            "labelled": known,
            "index": row,
        }
