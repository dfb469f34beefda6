"""05's arms, and which of them are compared."""

from dataclasses import dataclass, replace

from kdnb.experiment import Arm
from kdnb.models.prompts import KINDS


@dataclass(frozen=True)
class CamVidArm(Arm):
    """An arm of 05.

    Attributes:
        prompts: the kind of prompts that a teacher compares pixels with; "": class vectors that it learns.
        weighted: rare classes weigh more in the loss.
    """

    prompts: str = ""
    weighted: bool = True


WITH_HEAD = ("image_only", "teacher")  # networks that are a body with a head, which compares pixels with class vectors
MORE_LABELS = (2, 5, 16)  # times few_labels
OTHER_KINDS = ("mse", "channel", "features")  # of distillation terms, beside "kl"
PROMPT_TEACHERS = {f"teacher_{k}": CamVidArm(network="teacher", start_from="body", prompts=k) for k in KINDS}
TEACHERS = {"image_only": CamVidArm(network="image_only", start_from="body"), **PROMPT_TEACHERS}
TAUGHT = CamVidArm(("kd_kl",), teacher="teacher")
FEW, FEW_TAUGHT = CamVidArm(labels=1), replace(TAUGHT, labels=1)

ARMS = {
    "body": CamVidArm(network="body"),
    "baseline": CamVidArm(),
    "few_labels_baseline": FEW,
    **TEACHERS,
    "teacher": CamVidArm(network="teacher", members=tuple(PROMPT_TEACHERS)),
    "distilled_kl": TAUGHT,
    "distilled_mse": replace(TAUGHT, terms=("kd_mse",)),
    "distilled": replace(TAUGHT, members=("distilled_kl", "distilled_mse")),
    "few_labels_distilled": FEW_TAUGHT,
    "baseline_matched": CamVidArm(matches="distilled"),
    "all_labels": CamVidArm(members=("baseline",)),
}
ABLATIONS = {
    "long_few_labels_baseline": replace(FEW, longer=2),
    "long_few_labels_distilled": replace(FEW_TAUGHT, longer=2),
    **{f"few_labels_from_{arm.prompts}": replace(FEW_TAUGHT, teacher=t) for t, arm in PROMPT_TEACHERS.items()},
    "few_labels_from_image_only": replace(FEW_TAUGHT, teacher="image_only"),
    **{f"few_labels_x{n}_baseline": CamVidArm(labels=n) for n in MORE_LABELS},
    **{f"few_labels_x{n}_distilled": replace(TAUGHT, labels=n) for n in MORE_LABELS},
    **{f"few_labels_{k}": replace(FEW_TAUGHT, terms=(f"kd_{k}",)) for k in OTHER_KINDS},
    "few_labels_unweighted_baseline": replace(FEW, weighted=False),
    "few_labels_unweighted_distilled": replace(FEW_TAUGHT, weighted=False),
    "teacher_elsewhere": CamVidArm(network="body", part="elsewhere"),  # has seen no drive of its students
    "elsewhere_baseline": replace(FEW, part="own"),
    "elsewhere_distilled": replace(FEW_TAUGHT, part="own", teacher="teacher_elsewhere"),
}
COMPARISONS = (
    *(("distilled", other) for other in ("baseline", "baseline_matched")),
    *(("few_labels_distilled", other) for other in ("few_labels_baseline", "all_labels")),
    *((name, "baseline") for name in ("teacher", "distilled_kl", "distilled_mse")),
    *((name, "image_only") for name in PROMPT_TEACHERS),
    ("long_few_labels_distilled", "long_few_labels_baseline"),
    *((f"few_labels_from_{kind}", "few_labels_from_image_only") for kind in KINDS),
    *((f"few_labels_x{n}_distilled", f"few_labels_x{n}_baseline") for n in MORE_LABELS),
    *((f"few_labels_{kind}", "few_labels_distilled") for kind in OTHER_KINDS),
    ("few_labels_unweighted_distilled", "few_labels_unweighted_baseline"),
    ("few_labels_unweighted_baseline", "few_labels_baseline"),
    ("elsewhere_distilled", "elsewhere_baseline"),
)
