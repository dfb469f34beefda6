"""Paint for the faces of solids: windows, doors, lamps, plates, leaves. Everything is a function of the place on the
face, so that it stays put whatever the camera does."""

from dataclasses import dataclass

import numpy as np

from kdnb.world import solids as s
from kdnb.world.palette import GLASS

_TABLE = np.random.Generator(np.random.PCG64(5)).uniform(size=(256, 256)).astype(np.float32)
FRONT, BACK, LEFT, RIGHT, TOP, BOTTOM = range(6)


def noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """White noise in 0..1, one value per unit square of (a, b)."""
    return _TABLE[np.floor(a).astype(np.int32) & 255, np.floor(b).astype(np.int32) & 255]


def smooth_noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bilinear noise in 0..1 with features of one unit."""
    i, j = np.floor(a).astype(np.int32), np.floor(b).astype(np.int32)
    u, v = (a - i).astype(np.float32), (b - j).astype(np.float32)
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i0, i1, j0, j1 = i & 255, (i + 1) & 255, j & 255, (j + 1) & 255
    low = _TABLE[i0, j0] * (1 - u) + _TABLE[i1, j0] * u
    high = _TABLE[i0, j1] * (1 - u) + _TABLE[i1, j1] * u
    return low * (1 - v) + high * v


@dataclass
class Patch:
    """M hits on solids of one texture: place x, y, z in the solid's frame (metres), its half sizes hx, hy, hz, face,
    colour and accent (3, M), variant. ``glow`` (M,) is emitted light, ``gloss`` (M,) the share of sky it reflects."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    hx: np.ndarray
    hy: np.ndarray
    hz: np.ndarray
    face: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    variant: np.ndarray
    glow: np.ndarray
    gloss: np.ndarray

    def put(self, mask: np.ndarray, colour: s.Vector, glow: float = 0.0, gloss: float = 0.0) -> None:
        self.colour[:, mask] = np.asarray(colour, np.float32).reshape(3, -1)
        self.glow[mask] = glow
        self.gloss[mask] = gloss

    @property
    def ends(self) -> np.ndarray:
        return self.face <= BACK

    @property
    def sides(self) -> np.ndarray:
        return (self.face == LEFT) | (self.face == RIGHT)


def _lights(p: Patch, low, high, inner=0.62):
    """Head and tail lamps in a band of height above the bottom of the solid."""
    up = p.z + p.hz
    lamp = p.ends & (up > low) & (up < high) & (np.abs(p.y) > inner * p.hy) & (np.abs(p.y) < 0.96 * p.hy)
    p.put(lamp & (p.face == FRONT), (1.0, 0.98, 0.88), 0.55)
    p.put(lamp & (p.face == BACK), (0.85, 0.06, 0.05), 0.25)


def _plate(p: Patch, low):
    up = p.z + p.hz
    p.put(p.ends & (up > low) & (up < low + 0.13) & (np.abs(p.y) < 0.27), (0.88, 0.88, 0.82))


def car_body(p: Patch) -> None:
    up, high = p.z + p.hz, 2 * p.hz
    p.gloss[:] = np.where(p.face == TOP, 0.16, 0.08)
    stripe = (p.variant == 1) & ((p.face >= TOP) | p.ends) & (np.abs(np.abs(p.y) - 0.24) < 0.12)
    p.put(stripe, p.accent[:, stripe])
    p.put((up < 0.13 * high) & (p.face < TOP), (0.09, 0.09, 0.10))
    for x in (0.31, -0.30):
        arch = p.sides & ((p.x - 2 * x * p.hx) ** 2 + (up - 0.08) ** 2 < 0.42**2)
        p.put(arch, (0.06, 0.06, 0.06))
    seam = p.sides & ((np.abs(p.x - 0.06) < 0.014) | (np.abs(p.x + 1.02) < 0.014)) & (up > 0.2 * high)
    p.colour[:, seam] *= 0.5
    p.put(p.sides & (np.abs(p.x + 0.12) < 0.09) & (np.abs(up - 0.8 * high) < 0.02), (0.5, 0.5, 0.52))
    grille = (p.face == FRONT) & (up > 0.36 * high) & (up < 0.66 * high) & (np.abs(p.y) < 0.5 * p.hy)
    p.put(grille, (0.06, 0.06, 0.07))
    _lights(p, 0.52 * high, 0.84 * high)
    _plate(p, 0.24 * high)


def cabin(p: Patch) -> None:
    up = (p.z + p.hz) / (2 * p.hz)
    lean = np.abs(p.x) / p.hx
    pillar = (up > 0.90) | (p.sides & ((np.abs(p.x + 0.02) < 0.045) | (lean > 0.93)))
    pillar |= p.ends & (np.abs(p.y) > 0.93 * (p.hy - 0.17 * up))
    glass = (p.face < TOP) & ~pillar & (up > 0.06)
    stripe = (p.variant == 1) & (p.face == TOP) & (np.abs(np.abs(p.y) - 0.24) < 0.12)
    p.gloss[:] = 0.10
    p.put(stripe, p.accent[:, stripe])
    p.put(glass, GLASS, 0.0, 0.34)


def van_body(p: Patch) -> None:
    up, high = p.z + p.hz, 2 * p.hz
    p.gloss[:] = 0.06
    truck = p.variant == 3
    screen = (
        (p.face == FRONT) & (up > np.where(truck, 0.45, 0.40) * high) & (up < 0.92 * high) & (np.abs(p.y) < 0.88 * p.hy)
    )
    from_nose = p.hx - p.x
    door = (
        p.sides
        & (up > 0.50 * high)
        & (up < 0.88 * high)
        & (from_nose > np.where(truck, 0.25, 0.62))
        & (from_nose < np.where(truck, 1.2, 1.65))
        & (from_nose > 0.3 + 1.1 * up / high * ~truck)
    )
    p.put(screen | door, GLASS, 0.0, 0.34)
    rear = (p.face == BACK) & (up > 0.58 * high) & (up < 0.86 * high) & (np.abs(np.abs(p.y) - 0.42) < 0.30) & ~truck
    p.put(rear, GLASS, 0.0, 0.3)
    band = p.sides & ~truck & (p.variant > 0) & (np.abs(up - 0.33 * high) < 0.05 * high * p.variant)
    p.put(band, p.accent[:, band])
    logo = p.sides & ~truck & (p.variant == 0) & ((p.x + 0.9) ** 2 + (up - 0.62 * high) ** 2 < 0.42**2)
    p.put(logo, p.accent[:, logo])
    p.put(p.sides & (np.abs(from_nose - 1.75) < 0.02) & ~truck, (0.15, 0.15, 0.15))
    p.put((p.face == BACK) & (np.abs(p.y) < 0.015), (0.15, 0.15, 0.15))
    _lights(p, 0.14 * high, 0.26 * high, 0.74)
    _plate(p, 0.08 * high)


def bus_body(p: Patch) -> None:
    up, high = p.z + p.hz, 2 * p.hz
    p.gloss[:] = 0.06
    cell = np.mod(p.x + p.hx, 1.35)
    pane = p.sides & (up > 0.42 * high) & (up < 0.82 * high) & (cell > 0.1) & (p.hx - np.abs(p.x) > 0.25)
    door = (p.face == RIGHT) & (np.abs(np.abs(p.x - 0.25 * p.hx) - 0.62 * p.hx) < 0.62)
    band = p.sides & (up > 0.26 * high) & (up < 0.34 * high) & (p.variant != 0)
    p.put(band, p.accent[:, band])
    roof = (up > 0.92 * high) & (p.variant >= 2) & (p.face < TOP)
    p.put(roof, p.accent[:, roof])
    p.put(pane, GLASS, 0.02, 0.34)
    p.put(door & (up < 0.82 * high), (0.12, 0.12, 0.13))
    p.put(door & (up < 0.78 * high) & (up > 0.08 * high) & (np.mod(p.x, 0.62) > 0.08), (0.16, 0.20, 0.23), 0.0, 0.3)
    screen = p.ends & (up > np.where(p.face == FRONT, 0.30, 0.48) * high) & (up < 0.80 * high)
    p.put(screen & (np.abs(p.y) < 0.92 * p.hy), GLASS, 0.0, 0.34)
    board = p.ends & (up > 0.84 * high) & (up < 0.94 * high) & (np.abs(p.y) < 0.62 * p.hy)
    p.put(board, (0.05, 0.05, 0.05))
    p.put(board & (up > 0.86 * high) & (up < 0.92 * high) & (np.mod(p.y, 0.17) > 0.06), (1.0, 0.66, 0.1), 0.5)
    p.put((up < 0.06 * high) & (p.face < TOP), (0.08, 0.08, 0.08))
    _lights(p, 0.10 * high, 0.20 * high, 0.66)
    _plate(p, 0.07 * high)


def tram_body(p: Patch) -> None:
    up, high = p.z + p.hz, 2 * p.hz
    nose = (p.variant == 0) & (p.face == FRONT) | (p.variant == 1) & (p.face == BACK)
    low = (up < 0.34 * high) & (p.face < TOP)
    p.gloss[:] = 0.06
    p.put(low, p.accent[:, low])
    p.put((np.abs(up - 0.36 * high) < 0.025 * high) & (p.face < TOP), (0.12, 0.12, 0.13))
    pane = p.sides & (up > 0.44 * high) & (up < 0.80 * high) & (np.mod(p.x + p.hx, 1.75) > 0.18)
    p.put(pane & (p.hx - np.abs(p.x) > 0.3), GLASS, 0.02, 0.34)
    door = p.sides & (np.abs(np.abs(p.x) - 0.45 * p.hx) < 0.6) & (up < 0.84 * high)
    p.put(door, (0.14, 0.14, 0.15))
    p.put(door & (up > 0.08 * high) & (np.mod(p.x, 0.6) > 0.09), (0.17, 0.21, 0.24), 0.0, 0.3)
    p.put(nose & (up > 0.40 * high) & (up < 0.82 * high) & (np.abs(p.y) < 0.84 * p.hy), GLASS, 0.0, 0.34)
    board = nose & (up > 0.86 * high) & (up < 0.95 * high) & (np.abs(p.y) < 0.45 * p.hy)
    p.put(board, (0.95, 0.8, 0.2), 0.5)
    lamp = nose & (np.abs(up - 0.18 * high) < 0.045 * high) & (np.abs(np.abs(p.y) - 0.6 * p.hy) < 0.13)
    p.put(lamp & (p.face == FRONT), (1.0, 0.98, 0.9), 0.6)
    p.put(lamp & (p.face == BACK), (0.9, 0.08, 0.06), 0.3)


def cargo(p: Patch) -> None:
    up = (p.z + p.hz) / (2 * p.hz)
    rib = np.mod(p.x, 0.9) < 0.05
    p.colour[:, p.sides & rib] *= 0.88
    mark = p.sides & (np.abs(up - 0.55) < 0.16) & (np.abs(p.x) < 0.55 * p.hx) & (p.variant == 1)
    mark |= p.sides & (up + 0.12 * p.x < 0.34) & (p.variant == 2)
    p.put(mark, p.accent[:, mark])
    p.put((p.face == BACK) & ((np.abs(p.y) < 0.02) | (np.abs(np.abs(p.y) - 0.5) < 0.02)), (0.2, 0.2, 0.2))


def wheel(p: Patch) -> None:
    r = np.sqrt(p.x**2 + p.z**2) / p.hx
    hub = p.sides & (r < 0.62)
    angle = np.arctan2(p.z, p.x) * np.float32(5 / (2 * np.pi))
    spoke = np.mod(angle, 1.0) < 0.55
    dim = np.where(spoke | (r < 0.2), 1.0, 0.35).astype(np.float32)
    p.put(hub, p.accent[:, hub] * dim[hub])


def head(p: Patch) -> None:
    up, ahead = p.z / p.hz, p.x / p.hx
    hair = (up > 0.45) | (ahead < -0.15) & (up > -0.45)
    p.put(hair, p.accent[:, hair])
    p.put((ahead > 0.5) & (np.abs(up - 0.12) < 0.13) & (np.abs(np.abs(p.y) / p.hy - 0.4) < 0.16), (0.05, 0.05, 0.06))


def helmet(p: Patch) -> None:
    p.gloss[:] = 0.15
    p.put((p.x / p.hx > 0.35) & (np.abs(p.z / p.hz - 0.05) < 0.34), (0.04, 0.05, 0.06), 0.0, 0.35)


def shirt(p: Patch) -> None:
    up = (p.z + p.hz) / (2 * p.hz)
    band = (p.variant == 1) & (np.mod(up * 6, 1.0) < 0.45) | (p.variant == 2) & (np.abs(up - 0.66) < 0.1)
    p.put(band, p.accent[:, band])
    p.put((p.variant == 3) & (p.face == FRONT) & (np.abs(p.y) < 0.12 * p.hy), (0.9, 0.9, 0.88))


def leaves(p: Patch) -> None:
    a, b = p.x * 3.1 + p.y * 1.7 + p.variant * 9, p.z * 3.3 - p.y * 2.1
    p.colour *= 0.62 + 0.50 * smooth_noise(a, b) + 0.28 * noise(a * 3, b * 3)


def flowers(p: Patch) -> None:
    leaves(p)
    a, b = (p.x + p.y * 0.7) * 9 + p.variant * 5, (p.z - p.y * 0.6) * 9
    bloom = noise(a, b) > 0.62
    p.put(bloom, p.accent[:, bloom])


def facade(p: Patch) -> None:
    side = p.face <= BACK
    along, wide = np.where(side, p.y, p.x), np.where(side, p.hy, p.hx)
    up, kind = p.z + p.hz, p.variant
    storey, pitch = np.float32(3.1), np.where(kind % 2 == 0, 2.3, 1.8).astype(np.float32)
    columns = np.floor(2 * wide / pitch)
    cell = (along + wide) / (2 * wide) * columns
    u, level = cell - np.floor(cell), np.floor(up / storey)
    v = up / storey - level
    grain = noise(along * 4 + kind * 7, up * 9 + np.mod(np.floor(along * 2), 2))
    p.colour *= 0.93 + 0.12 * grain
    wall = (p.face < TOP) & (up < 2 * p.hz - 0.5)
    ledge = wall & (v < 0.06) & (level > 0) & (kind % 3 != 0)
    p.put(ledge, p.accent[:, ledge])
    half = np.where(kind % 4 < 2, 0.27, 0.20)
    frame = wall & (np.abs(u - 0.5) < half + 0.07) & (v > 0.24) & (v < 0.86)
    p.put(frame, p.accent[:, frame])
    pane = wall & (np.abs(u - 0.5) < half) & (v > 0.29) & (v < 0.82) & (np.abs(u - 0.5) > 0.02)
    lit = noise(np.floor(cell) + kind * 13, level * 5 + kind)
    shop = wall & (level == 0) & (kind % 5 < 2)
    p.put(shop, p.accent[:, shop] * 0.55)
    pane = np.where(shop, (np.abs(u - 0.5) < 0.44) & (v > 0.12) & (v < 0.80), pane)
    p.put(pane, GLASS, 0.0, 0.5)
    p.colour[:, pane] *= 0.7 + 0.9 * lit[pane]
    p.put(pane & (lit > 0.90), (0.92, 0.78, 0.48), 0.12)
    door = wall & (level == 0) & (np.floor(cell) == np.floor(columns / 2)) & (np.abs(u - 0.5) < 0.3) & (v < 0.72)
    p.put(door & ~shop, (0.28, 0.17, 0.11))
    p.put(door & shop & (np.abs(u - 0.5) > 0.22), (0.10, 0.10, 0.10))
    p.put((p.face < TOP) & (up > 2 * p.hz - 0.5) & (up < 2 * p.hz - 0.3), p.accent.mean(1))


def roof(p: Patch) -> None:
    p.colour *= 0.88 + 0.16 * noise(p.x * 3, p.z * 5) - 0.10 * (np.mod(p.z, 0.35) < 0.08)


def sign(p: Patch) -> None:
    round_one = p.variant == 0
    r = np.where(round_one, np.sqrt(p.x**2 + p.z**2) / p.hx, 0)
    rim = round_one & ((r > 0.72) | (np.abs(p.z) < 0.0 * p.hz))
    bar = round_one & (np.abs(p.z) < 0.16 * p.hz) & (np.abs(p.x) < 0.6 * p.hx)
    up = (p.z + p.hz) / (2 * p.hz)
    edge = p.hy - 0.38 * up - np.abs(p.y)
    rim |= (p.variant == 1) & ((edge < 0.09) | (up < 0.14))
    letter = (p.variant == 2) & (
        (np.abs(p.y - 0.08) < 0.05) & (np.abs(p.z) < 0.2)
        | (np.abs(p.z - 0.09) < 0.1)
        & (np.abs(p.y + 0.03) < 0.12)
        & ~((np.abs(p.z - 0.09) < 0.04) & (np.abs(p.y) < 0.06))
    )
    letter |= (p.variant == 3) & (np.maximum(np.abs(p.y), np.abs(p.z)) > 0.24)
    p.put(rim | letter, p.accent[:, rim | letter])
    p.put(bar, (0.08, 0.08, 0.08))
    p.put((p.variant == 1) & (np.abs(p.y) < 0.05) & (up > 0.22) & (up < 0.66), (0.05, 0.05, 0.05))
    p.put((p.face == FRONT) & (p.variant > 0), (0.45, 0.46, 0.48))


def signal(p: Patch) -> None:
    lamps = (((1.0, 0.12, 0.08), 0.30), ((1.0, 0.62, 0.05), 0.0), ((0.10, 0.95, 0.35), -0.30))
    for k, (colour, z) in enumerate(lamps):
        lens = (p.face == BACK) & (p.y**2 + (p.z - z) ** 2 < 0.12**2)
        p.put(lens, np.array(colour) * 0.25)
        p.put(lens & (p.variant == k), colour, 0.9)


def wood(p: Patch) -> None:
    p.colour *= 0.8 + 0.35 * noise(p.x * 6 + p.y * 6, p.z * 5 + p.y * 2)


def lamp(p: Patch) -> None:
    p.glow[:] = 0.35


PAINT = {
    s.CAR_BODY: car_body,
    s.CABIN: cabin,
    s.VAN_BODY: van_body,
    s.BUS_BODY: bus_body,
    s.TRAM_BODY: tram_body,
    s.CARGO: cargo,
    s.WHEEL: wheel,
    s.HEAD: head,
    s.HELMET: helmet,
    s.SHIRT: shirt,
    s.LEAVES: leaves,
    s.FLOWERS: flowers,
    s.FACADE: facade,
    s.ROOF: roof,
    s.SIGN: sign,
    s.SIGNAL: signal,
    s.WOOD: wood,
    s.LAMP: lamp,
}
