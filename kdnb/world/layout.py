"""The street's plan (lanes, parking, pavements, crossing, side street), and how to find free, visible places in it."""

from dataclasses import dataclass

import numpy as np

from kdnb.world.solids import SEMANTIC, Kit

Floats = float | np.ndarray
# where each category may stand
ZONES = {
    "car": ("lane", "oncoming", "parked", "parked", "side street"),
    "van": ("lane", "oncoming", "parked", "side street"),
    "truck": ("lane", "oncoming", "side street"),
    "bus": ("lane", "oncoming", "oncoming", "side street"),
    "tram": ("lane", "oncoming", "side street"),
    "motorbike": ("lane", "oncoming", "oncoming", "side street"),
    "bicycle": ("edge", "crossing", "crossing", "side street"),
    "person": ("pavement", "pavement", "crossing"),
    "dog": ("pavement", "crossing"),
    "potted plant": ("pavement",),
    "bench": ("pavement",),
}


@dataclass
class Street:
    """The plan in the street's own frame: x along it, y to the left, y = 0 in the middle of the camera's lane.

    right, left: distance of the outer lane edges from y = 0. parking, pavement, grass: widths to the (right, left).
    zebra: x where a crossing starts, or None. side: x range of a side street, or None. heading: where the camera looks,
    in radians from the street's direction; offset: its y. tram_lane: y of the rails, or None. along: the camera's x, 0
    until it drives on (see ``drive.advance``).
    """

    lane: float
    same: int
    opposite: int
    parking: tuple[float, float]
    pavement: tuple[float, float]
    grass: tuple[float, float]
    zebra: float | None
    side: tuple[float, float] | None
    heading: float
    offset: float
    viewpoint: str
    tram_lane: float | None
    wear: int
    along: float = 0.0

    @property
    def right(self) -> float:
        return self.lane * (self.same - 0.5)

    @property
    def left(self) -> float:
        return self.lane * (self.opposite + 0.5)

    def road(self, side: int) -> float:
        """Distance of the road's edge without parking, side -1 right, 1 left."""
        return self.right if side < 0 else self.left

    def kerb(self, side: int) -> float:
        """Distance of the kerb, side as in ``road``."""
        return self.road(side) + self.parking[side > 0]

    def frontage(self, side: int) -> float:
        """Distance of the house fronts, side as in ``road``."""
        return self.kerb(side) + self.pavement[side > 0] + self.grass[side > 0]

    def to_ego(self, x: Floats, y: Floats, yaw: Floats) -> tuple:
        """x, y, yaw of the street's frame in the ego frame."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return cos * x + sin * (y - self.offset), cos * (y - self.offset) - sin * x, yaw - self.heading

    def from_ego(self, x: Floats, y: Floats) -> tuple:
        """x, y of the ego frame in the street's frame."""
        cos, sin = np.float32(round(np.cos(self.heading), 6)), np.float32(round(np.sin(self.heading), 6))
        return cos * x - sin * y + np.float32(self.along), sin * x + cos * y + np.float32(self.offset)

    def ground(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Semantic class (uint8) of the ground at street coordinates x, y of one shape."""
        away = np.where(y < 0, -y, y)
        right = y < 0

        def pick(pair):
            return np.where(right, np.float32(pair[0]), np.float32(pair[1]))

        road, kerb = pick((self.right, self.left)), pick((self.kerb(-1), self.kerb(1)))
        paved = pick((self.kerb(-1) + self.pavement[0], self.kerb(1) + self.pavement[1]))
        out = np.where(away < kerb, np.uint8(SEMANTIC["road"]), np.uint8(SEMANTIC["pavement"]))
        out[away > paved] = SEMANTIC["grass"]
        if self.side is not None:
            out[(x > self.side[0]) & (x < self.side[1])] = SEMANTIC["road"]
        out[self._marks(x, y, away, road, kerb) & (out == SEMANTIC["road"])] = SEMANTIC["lane mark"]
        return out

    def _marks(self, x, y, away, road, kerb):
        wide = np.float32(0.075)
        dashes = np.mod(x, np.float32(6.0)) < 2.6
        marks = (np.abs(away - road) < wide) & ((kerb > road + 0.5) | (away < road))
        for k in range(1, self.same + self.opposite):
            edge = -self.right + k * self.lane
            middle = k == self.same
            line = np.abs(y - np.float32(edge)) < (1.3 * wide if middle else wide)
            marks |= line & (dashes | (middle and self.wear % 3 == 0))
        bays = (away > road) & (away < kerb) & (np.mod(x, np.float32(6.2)) < 0.1)
        marks |= bays
        if self.side is not None:
            inside = (x > self.side[0] - 0.3) & (x < self.side[1] + 0.3)
            marks &= ~inside
        if self.zebra is not None:
            start = np.float32(self.zebra)
            area = (x > start) & (x < start + 3.0)
            stripe = np.mod(y, np.float32(1.0)) < 0.5
            marks = np.where(area, stripe & (away < kerb - 0.1), marks)
            stop = (x > start - 1.4) & (x < start - 1.0) & (y < self.lane / 2) & (y > -self.right)
            marks |= stop
        return marks


def sample_street(rng: np.random.Generator) -> Street:
    """A street with 2 to 4 lanes; the camera is in a car or with a pedestrian at the kerb."""
    viewpoint = "car" if rng.uniform() < 0.45 else "kerb"
    lane = round(rng.uniform(3.1, 3.5), 3)
    same, opposite = (1, 1) if rng.uniform() < 0.6 else (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    parking = tuple(2.3 if rng.uniform() < 0.45 else 0.0 for _ in range(2))
    pavement = tuple(round(rng.uniform(2.6, 4.2), 3) for _ in range(2))
    grass = tuple(round(rng.uniform(1.0, 4.0), 3) if rng.uniform() < 0.4 else 0.0 for _ in range(2))
    zebra = round(rng.uniform(5.0, 11.0), 3) if rng.uniform() < 0.5 else None
    begin = (zebra or rng.uniform(6, 11)) + rng.uniform(4.5, 7)
    side = (round(begin, 3), round(begin + 8.0, 3)) if rng.uniform() < 0.45 else None
    heading, offset = rng.uniform(-0.08, 0.08), rng.uniform(-0.3, 0.3)
    if viewpoint == "kerb":
        left = rng.uniform() < 0.35
        edge = lane * (opposite + 0.5) + parking[1] if left else -lane * (same - 0.5) - parking[0]
        offset = edge + (1 if left else -1) * rng.uniform(-0.6, 1.6)
        heading = (-1 if left else 1) * rng.uniform(0.02, 0.55)
    rails = rng.uniform()
    tram_lane = 0.0 if rails < 0.2 else lane if rails < 0.4 else None
    return Street(
        lane,
        same,
        opposite,
        parking,
        pavement,
        grass,
        zebra,
        side,
        round(heading, 4),
        round(offset, 4),
        viewpoint,
        tram_lane,
        int(rng.integers(1000)),
    )


class Placer:
    """Finds free places in view, hidden by at most ``hidden`` of their width. Footprints are covered by circles; two
    things whose circles do not overlap do not touch."""

    def __init__(self, rng: np.random.Generator, street: Street, half_view: float, hidden: float = 0.45) -> None:
        self.rng, self.street, self.half_view, self.hidden = rng, street, half_view, hidden
        self.circles = np.array([[0.0, 0.0, 1.5]])  # x, y, radius in the ego frame; the camera keeps a distance
        self.spans = []  # (low azimuth, high azimuth, distance) of what stands in view

    def _zone(self, zone, category, width, count):
        """``count`` candidate (y, yaw) of a zone in the street's frame, and its x range or None."""
        street, rng = self.street, self.rng
        coin = rng.uniform(size=count) < 0.5
        wobble = rng.uniform(-1, 1, count)
        if zone in ("lane", "oncoming"):
            lanes, first, yaw = (street.same, 0.0, 0.0) if zone == "lane" else (street.opposite, street.lane, np.pi)
            step = -street.lane if zone == "lane" else street.lane
            y = first + step * rng.integers(0, lanes, count) + wobble * max(street.lane / 2 - width / 2 - 0.25, 0.0)
            return y, np.full(count, yaw) + 0.02 * wobble, None
        if zone == "edge":
            return np.where(coin, -street.right + 0.6, street.left - 0.6), np.where(coin, 0.0, np.pi), None
        if zone == "parked":
            if not any(street.parking):
                return None
            right = np.full(count, not street.parking[1]) | (coin & bool(street.parking[0]))
            y = np.where(right, -street.right - 1.15, street.left + 1.15)
            return y, np.where(right, 0.0, np.pi), None
        if zone in ("crossing", "side street"):
            if zone == "side street" and street.side is None:
                return None
            low, high = street.side if zone == "side street" else ((street.zebra or 6.0), (street.zebra or 6.0) + 3)
            margin = width / 2 + 0.25
            reach = 9 if zone == "side street" else 1.0
            if zone == "side street":  # traffic keeps right
                middle = (low + high) / 2 + np.where(coin, 2.0, -2.0)
                low, high = middle - 0.4, middle + 0.4
            else:
                low, high = low + min(margin, 1.4), high - min(margin, 1.4)
            y = rng.uniform(-street.right - reach, street.left + reach, count)
            return y, np.where(coin, np.pi / 2, -np.pi / 2) + 0.1 * wobble * (reach == 1.0), (low, high)
        return self._pavement(category, width, count, coin, wobble)

    def _pavement(self, category, width, count, coin, wobble):
        street, rng = self.street, self.rng
        wide = np.where(coin, *[street.pavement[k] for k in (0, 1)])
        kerb = np.where(coin, street.kerb(-1), street.kerb(1))
        side = np.where(coin, -1, 1)
        if category in ("potted plant", "bench"):
            away = kerb + wide - width / 2 - 0.35
            if category == "potted plant":
                away = np.where(wobble > 0, away, kerb + 0.6 + width / 2)
            return side * away, np.where(coin, np.pi / 2, -np.pi / 2), None
        away = kerb + 0.3 + width / 2 + rng.uniform(size=count) * np.maximum(wide - width - 0.6, 0.1)
        yaw = np.where(rng.uniform(size=count) < 0.5, 0.0, np.pi) + 0.35 * wobble
        return side * away, yaw, None

    def _cover(self, x, y, yaw, low, high):
        """Circles (K, 3) that cover a footprint from low to high (x, y) in the thing's frame, placed at x, y, yaw."""
        length, width, middle = high[0] - low[0], high[1] - low[1], (low + high) / 2
        count = max(int(np.ceil(2 * length / max(width, 0.3))), 1)
        along = low[0] + (np.arange(count) + 0.5) * length / count
        radius = np.hypot(length / count, width) / 2
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.stack(
            [x + cos * along - sin * middle[1], y + sin * along + cos * middle[1], np.full(count, radius)], 1
        )

    def _free(self, circles):
        gap = np.hypot(circles[:, None, 0] - self.circles[None, :, 0], circles[:, None, 1] - self.circles[None, :, 1])
        return bool((gap > circles[:, None, 2] + self.circles[None, :, 2] + 0.05).all())

    def claim(self, x: float, y: float, radius: float) -> bool:
        """Claim a circle given in the street's frame; False when it is taken."""
        ex, ey, _ = self.street.to_ego(x, y, 0.0)
        circle = np.array([[ex, ey, radius]])
        if not self._free(circle):
            return False
        self.circles = np.concatenate([self.circles, circle])
        return True

    def claim_box(self, centre: np.ndarray, size: np.ndarray, yaw: float) -> None:
        """Claim the ground below an upright box given in the ego frame, even where it is taken."""
        half = size[:2] / 2
        circles = self._cover(centre[0], centre[1], yaw, -half, half)
        self.circles = np.concatenate([self.circles, circles])

    def _span(self, circles):
        """Azimuth interval and distance of what the circles cover."""
        x, y, r = circles.T
        if x.min() < 0.5:
            return None
        return float(((y - r) / x).min()), float(((y + r) / x).max()), float(np.hypot(x, y).min())

    def _hidden(self, span) -> bool:
        """Whether more than ``hidden`` of the new span, or of one behind it, would be covered."""
        for low, high, distance in self.spans:
            shared = min(high, span[1]) - max(low, span[0])
            farther = (low, high) if distance > span[2] else span
            if shared > self.hidden * (farther[1] - farther[0]):
                return True
        return False

    def find(
        self, category: str, parts: list[tuple[str, Kit, dict]], reach: tuple[float, float], near: bool
    ) -> tuple[float, float, float, str] | None:
        """A place for the kits ``parts``: (x, y, yaw, zone) in the ego frame, or None. ``reach``: range of distances.

        ``near``: inside the view and hiding little; otherwise any free place outside the view or far away.
        """
        lows, highs = zip(*(kit.extent() for _, kit, _ in parts), strict=True)
        low, high = np.min(lows, 0), np.max(highs, 0)
        zones = ZONES[category]
        for _ in range(5):
            zone, count = zones[int(self.rng.integers(len(zones)))], 48
            candidates = self._zone(zone, category, high[1] - low[1], count)
            u = self.rng.uniform(size=count) ** (1.4 if near else 1.0)
            if candidates is None:
                continue
            y, yaw, along = candidates
            x = reach[0] - 1 + u * (reach[1] - reach[0] + 2) if along is None else along[0] + u * (along[1] - along[0])
            ex, ey, eyaw = self.street.to_ego(x, y, yaw)
            front = ex - 0.5 * (high[0] - low[0]) * np.abs(np.cos(eyaw))
            inside = np.abs(np.arctan2(ey, ex)) < 0.88 * self.half_view
            if near:
                good = inside & (front > reach[0]) & (front < reach[1])
            else:
                good = (~inside | (ex > 32)) & (np.abs(ex) > 6)
            for k in np.flatnonzero(good)[:5].tolist():
                circles = self._cover(ex[k], ey[k], eyaw[k], low, high)
                span = self._span(circles)
                if not self._free(circles) or (near and (span is None or self._hidden(span))):
                    continue
                self.circles = np.concatenate([self.circles, circles])
                if span is not None:
                    self.spans.append(span)
                return float(ex[k]), float(ey[k]), float(eyaw[k]), zone.replace("edge", "lane")
        return None
