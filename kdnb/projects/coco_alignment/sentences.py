"""01 COCO alignment: the sentences a teacher reads about a region, and which of them are true of which crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.coco import Region
from kdnb.datasets.region_views import RegionViews, side_in
from kdnb.datasets.region_views import collate as collate_crops
from kdnb.world.phrases import coloured, with_article, with_side

EVERYDAY = {"motorcycle": "motorbike", "potted plant": "plant"}
EVERYDAY_BODIES = ("van", "tram", "rider")
FACTS = ("category", "noun", "colour", "side", "size")
# What a sentence may name beside the object itself. Colour comes often: it is what category names lack.
NAMED = ((), ("colour",), ("colour",), ("side",), ("colour", "side"), ("colour", "side"), ("size", "colour"), ("size",))
WORDINGS = (
    "a photo of {a}",
    "a photo of {a}",
    "{a} in the street",
    "the {}",
    "park behind the {}",
    "follow the {}",
    "stop next to the {}",
    "turn left after the {}",
    "turn right after the {}",
    "wait for the {}",
    "slow down for the {}",
    "drive past the {}",
    "pull over in front of the {}",
    "let the {} go first",
    "watch out for the {}",
    "do not overtake the {}",
)


def sentence(region: Region, view: str, wording: int, named: Sequence[str]) -> tuple[str, dict]:
    """One sentence about a region as a view shows it, and the facts it states: {"category" or "noun", "colour", ...}.

    A photo of something is named by its COCO category, everything else by the everyday word where the data has one.
    What the region or the view does not have, such as the colour of a dog, is left out.
    """
    by_category = wording < 2
    word = region.category if by_category else noun_of(region)
    facts = {"category" if by_category else "noun": word}
    colour, side = region.attributes.get("colour"), side_in(view)
    phrase = word
    if "colour" in named and colour:
        phrase, facts["colour"] = coloured(word, colour), colour
    if "size" in named:
        phrase, facts["size"] = f"{region.size} {phrase}", region.size
    if "side" in named and side:
        phrase, facts["side"] = with_side(phrase, side), side
    return WORDINGS[wording].format(phrase, a=with_article(phrase)), facts


def noun_of(region: Region) -> str:
    """The everyday word, as a driver's command would say it: a rendered van is COCO's "car", but not a passenger's."""
    body = region.attributes.get("body")
    return body if body in EVERYDAY_BODIES else EVERYDAY.get(region.category, region.category)


class CaptionedRegions(Dataset):
    """``captioned[(index, "left_flip/5/2")]`` → a crop in a view, a sentence in wording 5 naming list 2, its facts."""

    def __init__(self, crops: RegionViews):
        self.crops = crops
        facts = [facts_of(crops.data.regions[i], None) for i in crops.indices]
        values = [sorted({one[name] for one in facts if name in one}) for name in FACTS]
        values[FACTS.index("side")] = ["left", "right"]
        self.codes = [{value: code for code, value in enumerate(some)} for some in values]

    @staticmethod
    def views(crop_views: Sequence[str]) -> list[str]:
        """Every view in every wording with every list of named facts."""
        return [f"{view}/{w}/{n}" for view in crop_views for w in range(len(WORDINGS)) for n in range(len(NAMED))]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, name = key
        view, wording, named = name.split("/")
        sample = self.crops[index, view]
        region = self.crops.data.regions[sample["region"]]
        text, said = sentence(region, view, int(wording), NAMED[int(named)])
        return {
            **sample,
            "text": text,
            "facts": self._encode(facts_of(region, side_in(view))),
            "said": self._encode(said),
        }

    def _encode(self, facts: dict) -> Tensor:
        """(5,) codes of the facts in the order of FACTS, −1 where there is none."""
        return torch.tensor([codes.get(facts.get(name), -1) for name, codes in zip(FACTS, self.codes, strict=True)])


def facts_of(region: Region, side: str | None) -> dict:
    """All that holds for a region; ``side`` is where the view shows it."""
    facts = {
        "category": region.category,
        "noun": noun_of(region),
        "colour": region.attributes.get("colour"),
        "side": side,
        "size": region.size,
    }
    return {name: value for name, value in facts.items() if value is not None}


def is_true(facts: Tensor, said: Tensor) -> Tensor:
    """(N, M) bool: does sentence j, which states ``said[j]`` (M, 5), hold for crop i, with ``facts[i]`` (N, 5)?"""
    return ((said[None] == -1) | (said[None] == facts[:, None])).all(-1)


def collate_captioned(tokenizer: Callable, sentences: int) -> Callable[[list[dict]], dict]:
    """Batches for ``contrastive_step``: crops, the distinct among their first ``sentences`` sentences, what is true.

    A sentence costs as much as several crops, and is true of several: of all crops, few sentences need to be read.
    """

    def collate(samples: list[dict]) -> dict:
        first = {sample["text"]: sample["said"] for sample in samples[:sentences]}
        facts = torch.stack([sample["facts"] for sample in samples])
        return {
            **collate_crops(samples),
            "tokens": tokenizer(list(first)),
            "positive": is_true(facts, torch.stack(list(first.values()))),
        }

    return collate
