"""One look for all figures: colours that colour-blind readers can tell apart, the same for an arm everywhere."""

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
)  # fmt: skip
GREY = "#666666"

ARM_COLOURS = {
    "teacher": BLUE, "baseline": ORANGE, "distilled": GREEN, "baseline_matched": VERMILION, "pkd": PINK,
    "few_labels_baseline": ORANGE, "few_labels_distilled": GREEN, "ground truth": "#000000",
}  # fmt: skip
ARM_MARKERS = {"teacher": "s", "baseline": "o", "distilled": "D", "baseline_matched": "^", "pkd": "v"}


def arm_colour(name: str) -> str:
    return ARM_COLOURS.get(name, GREEN if "distilled" in name else GREY)


def arm_marker(name: str) -> str:
    return ARM_MARKERS.get(name, "D" if "distilled" in name else "o")


def arm_label(name: str) -> str:
    """"few_labels_baseline" → "few labels baseline"."""
    return name.replace("_", " ")
