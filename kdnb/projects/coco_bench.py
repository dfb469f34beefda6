"""01 COCO alignment: what one training step costs with a live teacher and with its table, as ratios from one run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kdnb.datasets.region_views import VIEWS
from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.table import TeacherTable
from kdnb.engine import Plan
from kdnb.models.clip import teacher_step
from kdnb.projects.arms import train_config
from kdnb.projects.coco_alignment import (
    KD,
    Arm,
    CocoAlignmentSettings,
    LabelledRegions,
    build_distiller,
    build_student,
    build_teacher,
    category_text,
    collate_aligned,
    encoder,
    open_data,
    prompt_bank,
    regions_of,
    tokenizer_of,
    width_of,
)
from kdnb.projects.step_cost import ratio_table, time_steps, training_step
from kdnb.run import load_settings, set_threads


def bench_table(rounds: int = 20, profile: str = "lite", root: str | Path = "data") -> str:
    """Median milliseconds of each kind of step, taken in turn, and their ratios."""
    threads = set_threads()
    settings = load_settings(CocoAlignmentSettings, "coco_alignment", profile, train_images=24, test_images=8)
    train = open_data(settings, root=root).train
    regions, teacher = regions_of(train), build_teacher(settings, 0)
    encode = encoder(teacher, tokenizer_of(settings, teacher))
    texts = list(dict.fromkeys(category_text(region) for region in regions))
    rows = {i: texts.index(category_text(region)) for i, region in zip(train.indices, regions, strict=True)}
    data, collate = LabelledRegions(train, rows), collate_aligned(encode(texts))
    plan = Plan([(train.indices, settings.batch)], VIEWS)
    batches = [collate([data[key] for key in plan.batch(step)]) for step in range(rounds + 2)]
    bank = encode(prompt_bank(sorted({region.category for region in regions}), settings.bank_colours))
    live = LiveTeacher(teacher, teacher_step)
    with tempfile.TemporaryDirectory() as folder:
        table = TeacherTable(live, folder, "bench", [region.id for region in regions], VIEWS, "embedding")
        table.fill(collate([data[i, view] for i in train.indices]) for view in VIEWS)

        def step(arm, table=None):
            student = build_student(settings, width_of(teacher), 0).train()
            return training_step(
                build_distiller(student, arm, settings, teacher, bank, table),
                train_config(settings, rounds, settings.lr),
            )

        milliseconds = time_steps(
            {
                "plain step": step(Arm()),
                "teacher forward": lambda b: live.observe(b, None, []),
                "KD step, live": step(Arm(KD)),
                "KD step, cached": step(Arm(KD), table),
            },
            batches,
        )
    title = (
        f"01 coco_alignment, {profile}: batch {settings.batch}, {settings.crop} x {settings.crop} px crops, "
        f"{threads} threads, median of {rounds} steps taken in turn"
    )
    return ratio_table(title, milliseconds)
