"""From hits to colours: paint, sun and sky light, shadows on the ground, haze."""

import numpy as np

from kdnb.world.raycast import entry, faces, into_frame
from kdnb.world.solids import SEMANTIC
from kdnb.world.textures import PAINT, Patch, noise, smooth_noise

GROUND_COLOURS = {"road": (0.36, 0.36, 0.375), "lane mark": (0.86, 0.86, 0.83), "pavement": (0.60, 0.58, 0.55),
                  "grass": (0.30, 0.43, 0.18)}
FAR = 400.0  # metres; ground beyond is lost in the haze


def shade(scene, camera, rays, hits, grid, step):
    """Colours of a grid of rays.

    Args:
        rays: ego directions as from Camera.rays; hits: what they meet; grid: (columns, rows) pixel positions; step:
            their distance in pixels.
    Returns:
        colour (H, W, 3) float32 about 0..1, semantic (H, W) uint8, distance (H, W) float32 (ground included).
    """
    shape = hits.distance.shape
    x, y, z = (np.broadcast_to(a, shape) for a in rays)
    with np.errstate(divide="ignore"):
        ground = np.where(rays[2] < 0, -np.float32(camera.above) / rays[2], np.float32(np.inf))
    ground = np.broadcast_to(np.where(ground > FAR, np.float32(np.inf), ground), shape)
    on_solid = hits.distance < ground
    on_ground = ~on_solid & np.isfinite(ground)
    distance = np.where(on_solid, hits.distance, ground)
    semantic = np.full(shape, SEMANTIC["sky"], np.uint8)
    colour = np.empty((3, *shape), np.float32)
    sky = ~(on_solid | on_ground)
    colour[:, sky] = _sky(scene.look, x[sky], y[sky], z[sky])
    d = distance[on_ground]
    gx, gy = x[on_ground] * d, y[on_ground] * d
    sun = ground_light(scene, camera, grid, step, ground)[on_ground]
    colour[:, on_ground], semantic[on_ground] = _ground(scene, gx, gy, d, sun)
    t, solid = hits.distance[on_solid], hits.solid[on_solid]
    directions = np.stack([x[on_solid], y[on_solid], z[on_solid]])
    colour[:, on_solid] = _solids(scene, camera, solid, t, directions)
    semantic[on_solid] = scene.solids.semantic[solid]
    np.sqrt(np.maximum(colour, 0, out=colour), out=colour)  # light adds up in squares of display values
    hit = ~sky
    share = 1 - np.exp(-distance[hit] * np.float32(1 / scene.look.visibility))
    air = np.float32(scene.look.horizon)[:, None]
    colour[:, hit] += share * (air - colour[:, hit])
    return np.ascontiguousarray(colour.transpose(1, 2, 0)), semantic, distance


def _sky(look, x, y, z):
    length = np.sqrt(x * x + y * y + z * z)
    up = np.maximum(z / length, 0)
    blend = 1 - np.exp(-up * np.float32(4.5))
    zenith, horizon = (np.float32(a)[:, None] for a in (look.zenith, look.horizon))
    colour = horizon + (zenith - horizon) * blend
    sun = (x * np.float32(look.sun[0]) + y * np.float32(look.sun[1]) + z * np.float32(look.sun[2])) / length
    colour = colour + np.float32(0.35) * np.maximum(sun, 0) ** 24 * np.float32(look.sun_colour)[:, None]
    plane = 1 / (up + np.float32(0.12))
    a, b = x / length * plane * 1.6 + 40, y / length * plane * 1.6 + 90
    cloud = 0.6 * smooth_noise(a, b) + 0.3 * smooth_noise(2.3 * a, 2.3 * b) + 0.1 * smooth_noise(5 * a, 5 * b)
    cover = np.clip((cloud - np.float32(0.78 - 0.5 * look.clouds)) * 4, 0, 1) * np.minimum(up * 8, 1) * 0.8
    white = np.float32(0.55) + np.float32(0.40) * np.float32(look.horizon)[:, None]
    colour += cover * (white - colour)
    return colour * colour


def _ground(scene, gx, gy, distance, sun):
    """Light of ground points in the ego frame, squared display values (3, M), and their semantic class."""
    sx, sy = scene.street.from_ego(gx, gy)
    kind = scene.street.ground(sx, sy)
    table = np.zeros((32, 3), np.float32)
    for name, value in GROUND_COLOURS.items():
        table[SEMANTIC[name]] = value
    table[SEMANTIC["road"]] *= 0.9 + 0.02 * (scene.street.wear % 11)
    albedo = table[kind].T
    near = np.minimum(np.float32(14) / distance, 1)
    road, paved = kind == SEMANTIC["road"], kind == SEMANTIC["pavement"]
    grain = 0.10 * (noise(sx * 11, sy * 11) - 0.5) * near + 0.12 * (smooth_noise(sx * 0.5, sy * 0.8) - 0.5)
    grain[kind == SEMANTIC["grass"]] *= 3
    slab = paved & ((np.mod(sx, np.float32(0.9)) < 0.04) | (np.mod(sy, np.float32(0.9)) < 0.04))
    grain[slab] -= 0.14 * near[slab]
    away = np.abs(sy)
    kerb = np.where(sy < 0, np.float32(scene.street.kerb(-1)), np.float32(scene.street.kerb(1)))
    grain[paved & (away - kerb < 0.18)] += 0.16
    grain[road & (kerb - away < 0.3) & (kerb > away)] -= 0.12
    if scene.street.tram_lane is not None:
        off = np.abs(np.abs(sy - np.float32(scene.street.tram_lane)) - np.float32(0.72))
        grain[road & (off < 0.16)] -= 0.10
        grain[road & (off < 0.05)] += 0.42
    patch = smooth_noise(sx * 0.21 + scene.street.wear, sy * 0.34)
    grain[road & (patch > 0.76)] -= 0.10
    albedo = albedo * (1 + grain)
    look = scene.look
    light = np.float32(look.ambient)[:, None] * sun[1] + np.float32(look.sun_colour * look.sun[2])[:, None] * sun[0]
    return albedo * albedo * light, kind


def ground_light(scene, camera, grid, step, ground):
    """How much sun and how much sky reaches the ground: an (H, W) array of pairs, indexable like the grid.

    Shadows are cast from the ground towards the sun with the same slab test as everything else, at one ray per pixel.
    """
    stride = 2 if step < 1 else 1
    columns, rows = grid[0][stride - 1 :: stride], grid[1][stride - 1 :: stride]
    x, y, _ = camera.rays(columns, rows)
    flat = ground[stride - 1 :: stride, stride - 1 :: stride]
    flat = np.where(np.isfinite(flat), flat, 0)
    gx, gy = x * flat, y * flat
    sun, sky = np.ones(flat.shape, np.float32), np.ones(flat.shape, np.float32)
    _shadows(scene, camera, (columns, rows), gx, gy, sun)
    _contact(scene, camera, (columns, rows), gx, gy, sky)
    both = np.stack([_soften(sun), _soften(sky)])
    if stride == 2:
        both = np.pad(np.repeat(np.repeat(both, 2, 1), 2, 2), ((0, 0), (1, 0), (1, 0)), mode="edge")
    return _Pairs(both)


class _Pairs:
    """Two maps that are masked together."""

    def __init__(self, maps):
        self.maps = maps

    def __getitem__(self, mask):
        return self.maps[:, mask]


def _soften(a):
    out = a.copy()
    out[1:-1] = (a[:-2] + 2 * a[1:-1] + a[2:]) * np.float32(0.25)
    inner = out.copy()
    out[:, 1:-1] = (inner[:, :-2] + 2 * inner[:, 1:-1] + inner[:, 2:]) * np.float32(0.25)
    return out


def _shadows(scene, camera, grid, gx, gy, out):
    from kdnb.world.camera import windows

    solids, sun = scene.solids, scene.look.sun
    corners = solids.corners()
    fall = corners[..., 2:] / sun[2] * sun
    area = windows(camera.bounds(corners - fall), *grid)
    pixels = np.maximum(area[:, 1] - area[:, 0], 0) * np.maximum(area[:, 3] - area[:, 2], 0)
    big = (pixels >= 12) & (solids.size.max(1) > 0.3)
    cos, sin = (a.astype(np.float32) for a in solids.turn())
    half, inset, centre = (a.astype(np.float32) for a in (solids.size / 2, solids.inset, solids.centre))
    light = sun.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for i in np.flatnonzero(big).tolist():
            r0, r1, c0, c1 = area[i].tolist()
            win = (slice(r0, r1), slice(c0, c1))
            o = into_frame(cos[i], sin[i], gx[win] - centre[i, 0], gy[win] - centre[i, 1])
            d = into_frame(cos[i], sin[i], light[0], light[1])
            met = entry(solids.shape[i], half[i], inset[i], (*o, -centre[i, 2]), (*d, light[2]))
            np.copyto(out[win], 0, where=np.isfinite(met))


def _contact(scene, camera, grid, gx, gy, out):
    """Less sky light right below and beside things."""
    from kdnb.world.camera import windows

    if not scene.things:
        return
    reach = 0.6
    boxes = []
    for thing in scene.things:
        cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
        l, w = thing.size[0] / 2 + reach, thing.size[1] / 2 + reach
        boxes.append([(thing.centre[0] + cos * a * l - sin * b * w, thing.centre[1] + sin * a * l + cos * b * w, z)
                      for z in (0, 0.01) for a in (1, -1) for b in (1, -1)])
    area = windows(camera.bounds(np.array(boxes)), *grid)
    for thing, (r0, r1, c0, c1) in zip(scene.things, area.tolist(), strict=True):
        if r1 <= r0 or c1 <= c0:
            continue
        win = (slice(r0, r1), slice(c0, c1))
        cos, sin = np.float32(np.cos(thing.yaw)), np.float32(np.sin(thing.yaw))
        x, y = into_frame(cos, sin, gx[win] - np.float32(thing.centre[0]), gy[win] - np.float32(thing.centre[1]))
        l, w = (np.float32(a) / 2 - 0.05 for a in thing.size[:2])
        gap = np.maximum(np.maximum(np.abs(x) - l, np.abs(y) - w), 0)
        deep = np.float32(0.62 if thing.size[1] > 1 else 0.35)
        out[win] *= 1 - deep * np.maximum(1 - gap / np.float32(reach), 0) ** 2


def _solids(scene, camera, solid, t, directions):
    """Light of hits on solids, squared display values (3, M)."""
    solids, look = scene.solids, scene.look
    points = directions * t
    points[2] += np.float32(camera.above)
    local, normal, face = faces(solids, solid, points)
    albedo, glow, gloss = solids.colour.T[:, solid], np.zeros(len(t), np.float32), np.zeros(len(t), np.float32)
    _paint(solids, solid, local, face, albedo, glow, gloss)
    facing = np.maximum(np.float32(look.sun) @ normal, 0)
    sky = (np.float32(0.72) + np.float32(0.28) * normal[2]) * (
        np.float32(0.72) + np.float32(0.28) * np.minimum(points[2], 1))
    light = np.float32(look.ambient)[:, None] * sky + np.float32(look.sun_colour)[:, None] * facing
    colour = albedo * albedo * light
    shiny = np.flatnonzero(gloss)
    if len(shiny):
        colour[:, shiny] += _mirror(look, directions[:, shiny], normal[:, shiny]) * gloss[shiny]
    colour += glow * albedo
    return colour


def _paint(solids, solid, local, face, albedo, glow, gloss):
    texture = solids.texture[solid]
    half = (solids.size.T / 2).astype(np.float32)
    for code in np.flatnonzero(np.bincount(texture, minlength=1)).tolist():
        if code not in PAINT:
            continue
        at = np.flatnonzero(texture == code)
        own = solid[at]
        patch = Patch(*local[:, at], *half[:, own], face[at], albedo[:, at], solids.accent.T[:, own],
                      solids.variant[own], np.zeros(len(at), np.float32), np.zeros(len(at), np.float32))
        PAINT[code](patch)
        albedo[:, at], glow[at], gloss[at] = patch.colour, patch.glow, patch.gloss


def _mirror(look, directions, normal):
    """Sky seen in a glossy face: bright above the horizon, dark below, brighter at grazing angles."""
    along = (directions * normal).sum(0)
    up = directions[2] - 2 * along * normal[2]
    length = np.sqrt((directions * directions).sum(0))
    up, grazing = up / length, 1 + along / length
    sky = np.float32(look.horizon)[:, None] + (np.float32(look.zenith) - np.float32(look.horizon))[:, None] * (
        np.clip(up, 0, 1))
    bright = np.clip(up * 3 + np.float32(0.55), 0.12, 1) * (np.float32(0.6) + grazing * grazing)
    return sky * sky * bright
