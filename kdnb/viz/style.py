"""One look for all figures: an arm looks the same everywhere, also to colour-blind readers.

The **colour** is the arm's role, which its experiment declares; the **marker** tells arms of one role apart, and so do
the **line** in curves and the **hatch** in bars. Squares and blue teach; circles and orange learn alone; diamonds and
green are taught; pink is a control. Only the arms that all projects have are known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain, count
from typing import NamedTuple

from kdnb.errors import InputError

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW = "#56B4E9", "#D55E00", "#F0E442"
GREY, BLACK = "#666666", "#000000"
FOLDS = ("#9ECAE1", "#6BAED6", "#3182BD", "#08519C", "#041E42")  # pale to dark


class Look(NamedTuple):
    colour: str
    marker: str
    line: str = "-"
    hatch: str = ""


STANDARD = {
    "teacher": Look(BLUE, "s"),
    "baseline": Look(ORANGE, "o"),
    "distilled": Look(GREEN, "D"),
    "baseline_matched": Look(VERMILION, "^", "--"),
    "few_labels_baseline": Look(ORANGE, "h", ":", "..."),
    "few_labels_distilled": Look(GREEN, "d", ":", "..."),
    "ground truth": Look(BLACK, "X"),
}
ROLES = {  # role: its colours, the markers of its arms in turn, their line; students alone and taught share no marker
    "teacher": ((BLUE,), "P*Xpv", "-"),
    "ensemble": ((SKY,), "PX*pv", "-"),
    "member": (FOLDS, "osD^v", "-"),
    "alone": ((ORANGE,), "p>v8H", "--"),
    "matched": ((VERMILION,), "v<>", "--"),
    "distilled": ((GREEN,), "*<^PX", "--"),
    "control": ((PINK,), "vosX>P", "--"),
}
HATCHES = ("", "///", "\\\\\\", "xxx", "+++", "ooo", "***", "---", "|||")
_declared: dict[str, Look] = {}


def declare_roles(roles: Mapping[str, str]) -> None:
    """Give arms their looks, in place of the arms declared before; no two of them share colour and marker.

    Args:
        roles: arm → one of ``ROLES``, in the order of the arms. The looks of ``STANDARD`` do not change.

    Raises InputError for another role.
    """
    looks, declared = dict(STANDARD), Counter()
    for name, role in roles.items():
        if role not in ROLES:
            raise InputError(f"arm {name} has the role {role!r}, expected one of {', '.join(ROLES)}")
        if name not in STANDARD:
            looks[name] = _next_look(name, role, declared[role], looks)
            declared[role] += 1
    _declared.clear()
    _declared.update(looks)


def _next_look(name: str, role: str, place: int, looks: Mapping[str, Look]) -> Look:
    """The look of the arm at ``place`` among the others of its role: what none of ``looks`` has yet."""
    colours, shapes, line = ROLES[role]
    colour, turn, short = colours[place % len(colours)], place % len(shapes), _initials(name)
    markers = chain(shapes[turn:] + shapes[:turn], (f"${short}{number or ''}$" for number in chain([0], count(2))))
    same = [look for look in looks.values() if look.colour == colour]
    marker = next(marker for marker in markers if marker not in {look.marker for look in same})
    if "few_labels" in name:
        return Look(colour, marker, ":", "...")
    return Look(colour, marker, line, next((hatch for hatch in HATCHES if hatch not in {s.hatch for s in same}), ""))


def _look(name: str) -> Look:
    few = (":", "...") if "few_labels" in name else ()
    return STANDARD.get(name) or _declared.get(name) or Look(GREY, f"${_initials(name)}$", *few)


def arm_colour(name: str) -> str:
    """The colour of an arm's role; grey for an arm that was not declared."""
    return _look(name).colour


def arm_marker(name: str) -> str:
    """For curves and points: a shape, or the initials of the name once the shapes are used up."""
    return _look(name).marker


def arm_line(name: str) -> str:
    """Dotted for few labels, solid for teachers and the plain students, dashed for other students and controls."""
    return _look(name).line


def arm_hatch(name: str) -> str:
    """For bars."""
    return _look(name).hatch


def arm_label(name: str) -> str:
    """ "few_labels_baseline" → "few labels baseline"."""
    return name.replace("_", " ")


def _initials(name: str) -> str:
    """ "few_labels_x5_baseline" → "X5", "cosine_only" → "co": capitals are few labels, a word with a digit stays."""
    words = [word for word in name.replace("few_labels", "").split("_") if word and word not in STANDARD]
    short = "".join(word if any(c.isdigit() for c in word) else word[:1] for word in words) or name[:1]
    return short.upper() if "few_labels" in name else short
