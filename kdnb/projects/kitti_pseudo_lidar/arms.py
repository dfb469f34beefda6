"""04's arms, and which of them are compared."""

from dataclasses import dataclass, replace

from kdnb.distill.bev import NAMES as KD
from kdnb.experiment import Arm


@dataclass(frozen=True)
class CloudArm(Arm):
    """An arm of 04. One with a member is that finished network on other inputs.

    Attributes:
        points: its cloud, "velodyne" or "pseudo"; "" for the depth network, which gets images.
        image: False replaces images by black ones.
    """

    points: str = "pseudo"
    image: bool = True


ALONE = CloudArm(start_from="teacher")  # possible because teacher and students are alike
TAUGHT = replace(ALONE, terms=KD, teacher="teacher")
BLANKED = CloudArm(image=False, role="control")

ARMS = {
    "depth": CloudArm(network="depth", points=""),
    "teacher": CloudArm(network="teacher", points="velodyne"),
    "baseline_matched": replace(ALONE, matches="distilled"),
    "baseline": ALONE,
    "few_labels_baseline": replace(ALONE, labels=1),
    "distilled": TAUGHT,
    "few_labels_distilled": replace(TAUGHT, labels=1),
    "teacher_swapped": CloudArm(members=("teacher",), role="control"),
    "image_blanked": replace(BLANKED, members=("baseline",)),
    "teacher_image_blanked": replace(BLANKED, members=("teacher",), points="velodyne"),
}
ABLATIONS = {
    "baseline_from_scratch": CloudArm(),
    "distilled_from_scratch": replace(TAUGHT, start_from=""),
    "bev_only": replace(TAUGHT, terms=("kd_bev",)),
    "logit_only": replace(TAUGHT, terms=("kd_logit",)),
    "box_only": replace(TAUGHT, terms=("kd_box",)),
    "without_image": replace(BLANKED, start_from="teacher"),
    "long_baseline": replace(ALONE, longer=2),
    "long_distilled": replace(TAUGHT, longer=2),
}
COMPARISONS = (
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("distilled_from_scratch", "baseline_from_scratch"),
    ("baseline", "baseline_from_scratch"),
    ("teacher", "distilled"),
    ("distilled", "teacher_swapped"),
    ("image_blanked", "baseline"),
    ("teacher_image_blanked", "teacher"),
    *((name, "baseline") for name in ("without_image", "bev_only", "logit_only", "box_only")),
    ("long_distilled", "long_baseline"),
)
