"""07 scoreboard: the finished runs of all projects side by side, and their networks on one frame."""

from kdnb.datasets.street_frames import StreetFrame, drive, photo_frame, some_frames
from kdnb.projects.scoreboard.scoreboard import (
    COVER,
    PROJECT,
    find_runs,
    missing,
    projects,
    reopen,
    reopen_all,
    run_in_smoke,
)
from kdnb.projects.scoreboard.stacks import SIDES, TASKS, Stack, build_stacks, candidates, right_on

__all__ = [
    "COVER",
    "PROJECT",
    "SIDES",
    "TASKS",
    "Stack",
    "StreetFrame",
    "build_stacks",
    "candidates",
    "drive",
    "find_runs",
    "missing",
    "photo_frame",
    "projects",
    "reopen",
    "reopen_all",
    "right_on",
    "run_in_smoke",
    "some_frames",
]
