"""03 VOC DeFeat: what one training step costs with a live and with a cached teacher, as ratios from one run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from kdnb.datasets.detection import VIEWS, DetectionViews, collate
from kdnb.distill.cache import TeacherCache
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.engine import Plan
from kdnb.models.detector import detection_step
from kdnb.projects.arms import train_config
from kdnb.projects.step_cost import ratio_table, time_steps, training_step
from kdnb.projects.voc_defeat import DEFEAT, VocDefeatSettings, build, build_distiller, open_data, teacher_step
from kdnb.run import load_settings, set_threads


def bench_table(rounds: int = 15, profile: str = "lite", root: str | Path = "data") -> str:
    """Median CPU milliseconds of each kind of step, taken in turn, and their ratios."""
    threads = set_threads()
    settings = load_settings(VocDefeatSettings, "voc_defeat", profile, train_images=64, test_images=8)
    data = open_data(settings, root=root)
    views = DetectionViews(data.train)
    plan = Plan([(range(len(views)), settings.batch)], VIEWS)
    batches = [collate([views[key] for key in plan.batch(step)]) for step in range(rounds + 2)]
    teacher = build(settings.teacher, settings, 0)
    live = LiveTeacher(teacher, teacher_step)
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache(live, Path(folder), "bench", VIEWS, ["features"], dtype=torch.float16)
        cache.fill(batches)
        milliseconds = time_steps(steps(settings, teacher, live, cache), batches)
    title = (
        f"03 voc_defeat, {profile}: batch {settings.batch}, {settings.size[0]} x {settings.size[1]} px, "
        f"{threads} threads, median of {rounds} steps taken in turn"
    )
    return ratio_table(title, milliseconds)


def steps(settings, teacher, live: LiveTeacher, cache: TeacherCache) -> dict:
    """Name → a function that carries out one step on a batch."""

    def student():
        return build(settings.student, settings, 0).train()

    how = train_config(settings, 100, settings.lr)
    return {
        "plain step": training_step(Distiller(student(), student_step=detection_step), how),
        "teacher forward": lambda batch: live.observe(batch, None, []),
        "KD step, live": training_step(build_distiller(student(), teacher, DEFEAT, settings), how),
        "KD step, cached": training_step(build_distiller(student(), teacher, DEFEAT, settings, cache), how),
    }
