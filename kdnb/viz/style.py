"""One look for all figures, the same for an arm everywhere and one that colour-blind readers can follow.

The rule: the **colour** says what an arm is, and nothing is told by colour alone: the **marker** says which of them it
is (shapes for what is often drawn, else the initials of the arm's name), in curves the **line** and in bars the
**hatch** set the variants off. Squares and blue teach; circles and orange learn alone; diamonds and green are taught;
pink is a control.
"""

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
GREY, BLACK = "#666666", "#000000"

# What an arm is: the first row with a word that its name holds. In this order: "from_weak_teacher" does not teach.
COLOURS = (
    (BLACK, ("ground truth",)),
    (PINK, ("random", "pkd", "full_captions", "swapped", "blanked", "without_image", "again")),
    (VERMILION, ("baseline_matched",)),
    (ORANGE, ("baseline", "all_labels")),
    (
        GREEN,
        (
            "distilled",
            "from_",
            "no_labels",
            "features",
            "relations",
            "all_terms",
            "head_term",
            "mse",
            "channel",
            "sweep",
            "similarity_only",
            "cosine_only",
            "l2_only",
            "fg_only",
            "bg_only",
            "bev_only",
            "logit_only",
            "box_only",
            "oof",
            "transductive",
        ),
    ),
    (SKY, ("ensemble",)),
    (BLUE, ("teacher", "fold", "experiment", "body", "image_only", "depth")),
)
FOLDS = (("#9ECAE1", "o"), ("#6BAED6", "s"), ("#3182BD", "D"), ("#08519C", "^"), ("#041E42", "v"))  # pale to dark
ROLES = ("teacher", "baseline", "distilled")
PLAIN = {BLUE: "s", GREEN: "D"}  # what is not here has a circle
# A name, or what is left of it without ROLES: its marker, or those of the students alone and taught.
MARKERS = {
    "few_labels": ("h", "d"),
    "long": ("p", "*"),
    "finetuned": ("p", "*"),
    "projection": (">", "<"),
    "inherited": (">", "<"),
    "double": (">", "<"),
    "regress": ("v", "^"),
    "from_scratch": ("v", "^"),
    "few_labels_unweighted": ("v", "^"),
    "long_few_labels": ("p", "*"),
    "matched": "^",
    "matched_projection": "v",
    "pkd": "v",
    "weak": "v",
    "from_weak": "v",
    "best_fold": "v",
    "oof": "P",
    "cached": "X",
    "kl": "P",
    "mse": "X",
    "no_labels": "X",
    "all_labels": ">",
    "swapped": "v",
    "without_image": "X",
    "label": "^",
    "sentence": ">",
    "bag_of_words": "p",
    "orthogonal_concept": "h",
    "image_only": "*",
    "body": "P",
    "depth": "P",
    "ensemble": "P",
    "random": "o",
    "random_projection": ">",
    "again": "o",
    "image_blanked": "o",
    "teacher_image_blanked": "s",
    "fg_only": "P",
    "bg_only": "X",
    "bev_only": "P",
    "box_only": "X",
    "logit_only": "v",
    "full_captions": ("o", "D"),
    "ground truth": "X",
}
HATCHES = {
    "few_labels": "...",
    "_projection": "///",
    "_regress": "\\\\\\",
    "_finetuned": "xxx",
    "no_labels": "xxx",
    "full_captions_distilled": "///",
}


def arm_colour(name: str) -> str:
    """What an arm is; grey, when its name holds no word that says so."""
    if name.startswith("fold_"):
        return FOLDS[_number(name)][0]
    return next((colour for colour, words in COLOURS if any(word in name for word in words)), GREY)


def arm_marker(name: str) -> str:
    """Which one it is: no two arms of a project share colour and marker."""
    if name.startswith("fold_"):
        return FOLDS[_number(name)][1] if name[-1].isdigit() else f"${name[-1]}$"  # "fold_1_A"
    variant, colour = _variant(name), arm_colour(name)
    if not variant:
        return PLAIN.get(colour, "o")
    known = MARKERS.get(name) or MARKERS.get(variant) or f"${_initials(variant)}$"
    if isinstance(known, str):
        return known
    return known[colour == GREEN or "distilled" in name]


def arm_line(name: str) -> str:
    """Solid for what teaches and for the plain students, dotted for few labels, dashed for what is left."""
    if "few_labels" in name:
        return ":"
    return "--" if _variant(name) and arm_colour(name) in (ORANGE, VERMILION, GREEN, PINK) else "-"


def arm_hatch(name: str) -> str:
    """Of an arm's bars."""
    return next((hatch for word, hatch in HATCHES.items() if word in name), "")


def arm_label(name: str) -> str:
    """ "few_labels_baseline" → "few labels baseline"."""
    return name.replace("_", " ")


def _variant(name: str) -> str:
    """ "few_labels_x5_baseline" → "few_labels_x5"."""
    return "_".join(word for word in name.split("_") if word not in ROLES)


def _initials(variant: str) -> str:
    """ "few_labels_x5" → "X5", "cosine_only" → "co": capitals are few labels, a word with a number stays whole."""
    words = variant.replace("few_labels", "").split("_")
    short = "".join(word if any(c.isdigit() for c in word) else word[:1] for word in words)
    return short.upper() if "few_labels" in variant else short


def _number(name: str) -> int:
    """ "fold_1" → 0, the first of FOLDS."""
    return (int("".join(filter(str.isdigit, name)) or 1) - 1) % len(FOLDS)
