"""02's arms: a head on each encoder of 01; and which of them are compared."""

from __future__ import annotations

from dataclasses import dataclass

from kdnb.experiment import Arm


@dataclass(frozen=True)
class GroundingArm(Arm):
    """A way to locate the object. With ``start_from``, encoder and head of that arm are fine-tuned together.

    Attributes:
        encoder: "teacher", "random", or the arm of 01 whose student it is.
        head: "transformer" or "projection".
        mode: "rank" chooses one of the proposals; "regress" corrects each proposal's box and takes their mean,
            weighted by the scores.
    """

    encoder: str = "distilled"
    head: str = "transformer"
    mode: str = "rank"

    def shown_as(self) -> str:
        return ENCODERS[self.encoder]


# encoder: what figures show it as
ENCODERS = {
    "teacher": "teacher",
    "baseline": "alone",
    "distilled": "distilled",
    "random": "control",
    "baseline_matched": "matched",
}
PAIR = ("baseline", "distilled")

ARMS = {
    **{name: GroundingArm(encoder=name) for name in ENCODERS},
    **{f"{name}_projection": GroundingArm(encoder=name, head="projection") for name in ENCODERS},
    **{f"few_labels_{name}": GroundingArm(encoder=name, labels=1) for name in PAIR},
    **{f"{name}_regress": GroundingArm(encoder=name, mode="regress") for name in PAIR},
    **{f"{name}_finetuned": GroundingArm(encoder=name, start_from=name) for name in PAIR},
}
COMPARISONS = (
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("distilled", "random"),
    ("baseline", "random"),
    ("teacher", "distilled"),
    ("distilled_projection", "baseline_projection"),
    ("distilled", "distilled_projection"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("distilled_regress", "baseline_regress"),
    ("distilled_finetuned", "baseline_finetuned"),
    ("distilled_finetuned", "distilled"),
)
