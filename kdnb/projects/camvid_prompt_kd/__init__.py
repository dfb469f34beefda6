"""05 CamVid prompt KD: a segmenter that compares pixels with words teaches a small one that needs no text."""

from kdnb.projects.camvid_prompt_kd.arms import PROMPT_TEACHERS, TEACHERS
from kdnb.projects.camvid_prompt_kd.data import CamVidPromptKdSettings, open_data, pixel_shares
from kdnb.projects.camvid_prompt_kd.experiment import CamVidPromptKd
from kdnb.projects.camvid_prompt_kd.teachers import build_teacher, text_encoder
from kdnb.projects.camvid_prompt_kd.terms import build, build_distiller

__all__ = [
    "PROMPT_TEACHERS",
    "TEACHERS",
    "CamVidPromptKd",
    "CamVidPromptKdSettings",
    "build",
    "build_distiller",
    "build_teacher",
    "open_data",
    "pixel_shares",
    "text_encoder",
]
