"""02 Talk2Car grounding: the student of 01 locates the object that a command to the driver refers to."""

from kdnb.datasets.talk2car_views import grid_proposals, item_in_pixels
from kdnb.projects.talk2car_grounding.arms import ARMS, ENCODERS, GroundingArm
from kdnb.projects.talk2car_grounding.data import Talk2CarGroundingSettings, open_data
from kdnb.projects.talk2car_grounding.experiment import Talk2CarGrounding
from kdnb.projects.talk2car_grounding.heads import build_grounder, encode_commands

__all__ = [
    "ARMS",
    "ENCODERS",
    "GroundingArm",
    "Talk2CarGrounding",
    "Talk2CarGroundingSettings",
    "build_grounder",
    "encode_commands",
    "grid_proposals",
    "item_in_pixels",
    "open_data",
]
