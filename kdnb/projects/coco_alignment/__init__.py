"""01 COCO alignment: a small ConvNeXt learns the image space of an OpenCLIP teacher from regions and their texts."""

from kdnb.datasets.region_splits import regions_of
from kdnb.metrics.alignment import query_text
from kdnb.projects.coco_alignment.arms import SWEEP, CocoArm
from kdnb.projects.coco_alignment.data import CocoAlignmentSettings, open_data, prompt_bank, text_of
from kdnb.projects.coco_alignment.experiment import CocoAlignment
from kdnb.projects.coco_alignment.sentences import NAMED, sentence
from kdnb.projects.coco_alignment.terms import embed, encode_crops

__all__ = [
    "NAMED",
    "SWEEP",
    "CocoAlignment",
    "CocoAlignmentSettings",
    "CocoArm",
    "embed",
    "encode_crops",
    "open_data",
    "prompt_bank",
    "query_text",
    "regions_of",
    "sentence",
    "text_of",
]
