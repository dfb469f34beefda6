"""01 COCO alignment: the sentences a teacher reads about a region, and which of them are true of which crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.coco import RegionViews, side_in
from kdnb.world.phrases import coloured, with_article, with_side

EVERYDAY = {"motorcycle": "motorbike", "potted plant": "plant"}
EVERYDAY_BODIES = ("van", "tram", "rider")
FACTS = ("category", "noun", "colour", "side", "size")
# What a sentence may name beside the object itself. Colour comes often: it is what category names lack.
NAMED = ((), ("colour",), ("colour",), ("side",), ("colour", "side"), ("colour", "side"), ("size", "colour"), ("size",))
WORDINGS = (
    "a photo of {a}", "a photo of {a}", "{a} in the street", "the {}", "park behind the {}", "follow the {}",
    "stop next to the {}", "turn left after the {}", "turn right after the {}", "wait for the {}",
    "slow down for the {}", "drive past the {}", "pull over in front of the {}", "let the {} go first",
    "watch out for the {}", "do not overtake the {}",
)  # fmt: skip


def sentence(region, view: str, wording: int, named: Sequence[str]) -> tuple[str, dict]:
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


def noun_of(region) -> str:
    """The everyday word, as a driver's command would say it: a drawn van is COCO's "car", but not a passenger's."""
    body = region.attributes.get("body")
    return body if body in EVERYDAY_BODIES else EVERYDAY.get(region.category, region.category)


class CaptionedRegions(Dataset):
    """``captioned[(index, "left_flip/5/2")]`` → a crop in a view, a sentence in wording 5 naming list 2, its facts.

    Args:
        crops: the regions' views.
        tokenizer: list of sentences → (N, L) int64.
    """

    def __init__(self, crops: RegionViews, tokenizer):
        self.crops, self.tokenizer = crops, tokenizer
        self.codes: dict[str, int] = {}

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
        true = {"category": region.category, "noun": noun_of(region), "colour": region.attributes.get("colour"),
                "side": side_in(view), "size": region.size}  # fmt: skip
        return {**sample, "tokens": self.tokenizer([text])[0], "text": text,
                "facts": self._encode(true), "said": self._encode(said)}  # fmt: skip

    def _encode(self, facts: dict) -> Tensor:
        """(5,) codes of the facts in the order of FACTS, −1 where there is none."""
        values = [facts.get(name) for name in FACTS]
        return torch.tensor([-1 if v is None else self.codes.setdefault(v, len(self.codes)) for v in values])


def is_true(facts: Tensor, said: Tensor) -> Tensor:
    """(N, M) bool: does sentence j, which states ``said[j]`` (M, 5), hold for crop i, with ``facts[i]`` (N, 5)?"""
    return ((said[None] == -1) | (said[None] == facts[:, None])).all(-1)
