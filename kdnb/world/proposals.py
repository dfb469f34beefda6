"""Region proposals like a detector's: imperfect boxes of visible things, boxes of background and of parts.

They are sampled from the ground truth, without knowledge of the commands.
"""

import numpy as np

from kdnb.world.referring import Referent

MISSED = 0.02  # share of things without a proposal; higher for half hidden and tiny things
OVERLAP = (0.6, 0.95)  # IoU of a proposal with its thing
FEWEST_PIXELS = 20  # visible pixels that a proposed thing has at least
NAMES = {
    "car": "vehicle.car",
    "van": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "tram": "vehicle.bus.bendy",
    "person": "human.pedestrian.adult",
    "dog": "animal",
    "bicycle": "vehicle.bicycle",
    "motorbike": "vehicle.motorcycle",
}  # of nuScenes, which has no trams


def propose(referents: list[Referent], width: int, height: int, most: int, rng: np.random.Generator) -> list[dict]:
    """``most`` proposals in random order: {"bbox": [x, y, w, h] in pixels, "class", "score"}.

    Each visible thing of a type in NAMES gets one of IoU 0.6 to 0.95 unless it is missed; the rest are false, with no
    IoU above 0.5.
    """
    things = [r for r in referents if r.noun in NAMES and r.pixels >= FEWEST_PIXELS]
    truth = np.array([r.box for r in things]).reshape(-1, 4)
    out = []
    for r in things:
        score = float(np.clip(rng.normal(0.35 + 0.45 * r.visible, 0.15), 0.1, 0.99))
        if rng.uniform() > MISSED + 0.06 * (1 - r.visible) + 0.05 * (r.pixels < 60):
            out.append((score, _jittered(np.array(r.box), rng.uniform(*OVERLAP), width, height, rng), NAMES[r.noun]))
    out = sorted(out, key=lambda p: -p[0])[:most]
    kinds = list(NAMES.values())
    for _ in range(60 * most):
        if len(out) == most:
            break
        box = _false(truth, width, height, rng)
        if box[2] - box[0] >= 4 and box[3] - box[1] >= 4 and not (_iou(box, truth) > 0.5).any():
            out.append((float(np.clip(rng.normal(0.3, 0.15), 0.05, 0.9)), box, kinds[int(rng.integers(len(kinds)))]))
    return [
        {"bbox": [x1, y1, x2 - x1, y2 - y1], "class": name, "score": round(score, 3)}
        for score, (x1, y1, x2, y2), name in (out[k] for k in rng.permutation(len(out)))
    ]


def _jittered(box, overlap, width, height, rng):
    """The box moved and stretched in a random direction until its IoU with the original falls to ``overlap``."""
    push = rng.normal(size=4)
    push *= 2 / np.linalg.norm(push) * np.tile(box[2:] - box[:2], 2)
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        moved = _inside(box + middle * push, width, height)
        low, high = (middle, high) if _iou(moved, box[None])[0] > overlap else (low, middle)
    return _inside(box + low * push, width, height)


def _false(truth, width, height, rng):
    """A box of background, of a part of a thing, or around two things."""
    kind = rng.uniform()
    if len(truth) and kind < 0.35:
        x1, y1, x2, y2 = truth[int(rng.integers(len(truth)))]
        share = rng.uniform(0.3, 0.65, 2)
        at = rng.uniform(size=2) * (1 - share)
        w, h = x2 - x1, y2 - y1
        box = np.array([x1 + at[0] * w, y1 + at[1] * h, x1 + (at[0] + share[0]) * w, y1 + (at[1] + share[1]) * h])
    elif len(truth) > 1 and kind < 0.45:
        a, b = truth[rng.choice(len(truth), 2, replace=False)]
        box = np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
    else:  # of a usual size, mostly around the horizon and on the ground
        size = height * np.exp(rng.normal(-1.7, 0.6))
        wide, high = size * np.exp(rng.normal(0.1, 0.45)), size
        centre = rng.uniform(0, width), height * np.clip(rng.normal(0.55, 0.18), 0.05, 0.95)
        box = np.array([centre[0] - wide / 2, centre[1] - high / 2, centre[0] + wide / 2, centre[1] + high / 2])
    return _inside(box, width, height)


def _inside(box, width, height):
    return np.clip(box, 0, [width, height, width, height])


def _iou(box, others):
    """IoU (N,) of a box (4,) with others (N, 4); an inverted box has none."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(1)
    area = np.clip(box[2:] - box[:2], 0, None).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return shared / np.maximum(area - shared, 1e-9)
