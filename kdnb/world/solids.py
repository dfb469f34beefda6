"""Solids: the oriented boxes (and what is rounded or slanted inside them) that everything in the street is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

Vector = Sequence[float] | np.ndarray
# Shape within the oriented box. A RING is a see-through wheel: a cylinder across the box without its inner disc.
BOX, CYLINDER_Y, CYLINDER_Z, ELLIPSOID, RING = range(5)

# Texture of a solid: what shade.py paints on its faces.
(
    PLAIN,
    CAR_BODY,
    CABIN,
    VAN_BODY,
    BUS_BODY,
    TRAM_BODY,
    CARGO,
    WHEEL,
    HEAD,
    SHIRT,
    LEAVES,
    FACADE,
    ROOF,
    SIGN,
    SIGNAL,
    WOOD,
    FLOWERS,
    HELMET,
    LAMP,
    MODEL_BODY,
    MODEL_CABIN,
    RIM,
) = range(22)

SEMANTICS = (
    "void",
    "sky",
    "road",
    "lane mark",
    "pavement",
    "grass",
    "building",
    "fence",
    "pole",
    "traffic sign",
    "tree",
    "car",
    "van",
    "truck",
    "bus",
    "tram",
    "person",
    "rider",
    "bicycle",
    "motorbike",
    "dog",
    "potted plant",
    "bench",
    "traffic light",
)
SEMANTIC = {name: index for index, name in enumerate(SEMANTICS)}


@dataclass
class Solids:
    """Struct of arrays over N oriented boxes in the ego frame (x forward, y left, z up, metres).

    centre (N,3), size (N,3) and yaw (N,) place the box. ``inset`` (N,3) moves the top edge of the front, the back and
    both sides inwards in metres, which makes windscreens, roofs, cones and, with front = -back, leaning limbs.
    ``colour`` and ``accent`` (N,3) are in 0..1; ``variant`` (N,) is a small number by which a texture varies.
    ``instance`` is 0 for scenery.
    """

    centre: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    shape: np.ndarray
    inset: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    texture: np.ndarray
    variant: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray

    def __len__(self) -> int:
        return len(self.yaw)

    def take(self, index: np.ndarray) -> "Solids":
        """The solids at ``index`` (integers or a mask)."""
        return Solids(*(getattr(self, f.name)[index] for f in fields(self)))

    @cached_property
    def cos_sin(self) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of yaw, (N,) float32 each, rounded so that results do not depend on a machine's last bit."""
        return tuple((np.round(f(self.yaw), 6) + 0.0).astype(np.float32) for f in (np.cos, np.sin))

    @cached_property
    def corners(self) -> np.ndarray:
        """(N, 8, 3) corners in the ego frame, insets included."""
        half = self.size / 2
        x = np.stack([half[:, 0], -half[:, 0], half[:, 0] - self.inset[:, 0], self.inset[:, 1] - half[:, 0]], 1)
        y = np.stack([half[:, 1], half[:, 1] - self.inset[:, 2]], 1)
        cos, sin = self.cos_sin
        out = np.empty((len(self), 8, 3))
        for k in range(8):
            top, end, side = k >> 2, (k >> 1) & 1, 1 - 2 * (k & 1)
            px, py = x[:, 2 * top + end], side * y[:, top]
            out[:, k, 0] = cos * px - sin * py
            out[:, k, 1] = sin * px + cos * py
            out[:, k, 2] = half[:, 2] * (2 * top - 1)
        return out + self.centre[:, None]


class Kit:
    """Parts of one thing in its own frame (x forward, y left, z up, origin on the ground)."""

    def __init__(self, semantic: str) -> None:
        self.semantic = SEMANTIC[semantic]
        self.rows = []

    def add(
        self,
        centre: Vector,
        size: Vector,
        colour: Vector,
        texture: int = PLAIN,
        shape: int = BOX,
        inset: Vector = (0, 0, 0),
        accent: Vector | None = None,
        variant: int = 0,
        yaw: float = 0.0,
        semantic: str | None = None,
    ) -> None:
        """Add a box; ``yaw`` is its own within the thing, in radians. Everything else is as in Solids."""
        self.rows.append(
            (
                *centre,
                *size,
                yaw,
                shape,
                *inset,
                *colour,
                *(colour if accent is None else accent),
                texture,
                variant,
                self.semantic if semantic is None else SEMANTIC[semantic],
            )
        )

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (3,) of all parts in the thing's own frame, for parts without yaw."""
        rows = np.array(self.rows)
        low, high = rows[:, :3] - rows[:, 3:6] / 2, rows[:, :3] + rows[:, 3:6] / 2
        out = np.minimum(rows[:, [9, 8, 10]], 0)  # a negative inset reaches out: the back's, the front's, the sides'
        low[:, :2] += out[:, [0, 2]]
        high[:, :2] -= out[:, [1, 2]]
        return low.min(0), high.max(0)


def solids(placed: list[tuple[np.ndarray, float, float, float, int]]) -> Solids:
    """Solids of a list of (rows of a Kit, x, y, yaw, instance)."""
    rows = np.concatenate([rows for rows, *_ in placed])
    x, y, yaw, instance = (np.repeat([p[k] for p in placed], [len(p[0]) for p in placed]) for k in (1, 2, 3, 4))
    cos, sin = np.cos(yaw), np.sin(yaw)
    centre = np.stack([x + cos * rows[:, 0] - sin * rows[:, 1], y + sin * rows[:, 0] + cos * rows[:, 1], rows[:, 2]], 1)
    return Solids(
        centre=np.round(centre, 4),
        size=np.round(rows[:, 3:6], 4),
        yaw=np.round(yaw + rows[:, 6], 6),
        shape=rows[:, 7].astype(np.uint8),
        inset=np.round(rows[:, 8:11], 4),
        colour=rows[:, 11:14].astype(np.float32),
        accent=rows[:, 14:17].astype(np.float32),
        texture=rows[:, 17].astype(np.uint8),
        variant=rows[:, 18].astype(np.uint8),
        semantic=rows[:, 19].astype(np.uint8),
        instance=instance.astype(np.int32),
    )
