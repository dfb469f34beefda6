"""From hits to colours: paint, sun and sky light, shadows on the ground, haze."""

import numpy as np

from kdnb.world.car_paint import CAR_PAINT
from kdnb.world.pinhole import Camera
from kdnb.world.raycast import faces, intersect, into_frame
from kdnb.world.scene import Scene
from kdnb.world.solids import SEMANTIC
from kdnb.world.textures import PAINT as STREET_PAINT
from kdnb.world.textures import Patch, noise, smooth_noise

GROUND_COLOURS = {
    "road": (0.36, 0.36, 0.375),
    "lane mark": (0.86, 0.86, 0.83),
    "pavement": (0.60, 0.58, 0.55),
    "grass": (0.30, 0.43, 0.18),
}
PAINT = {**STREET_PAINT, **CAR_PAINT}
FAR = 400.0  # metres; ground beyond is lost in the haze


def shade(
    scene: Scene, camera: Camera, directions: np.ndarray, reach: np.ndarray, solid: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours of M rays.

    Args:
        directions: (3, M) ego directions as from Camera.rays.
        reach, solid: (M,) distance of the first solid on the ray (inf: none) and its index, as from raycast.cast.
        light: (2, M) shares of sun and of sky light that reach the ground, as from ground_light.
    Returns:
        colour (3, M) float32 about 0..1, semantic (M,) uint8, distance (M,) float32 with the ground's included.
    """
    ground = ground_distance(camera, directions[2])
    distance = np.minimum(reach, ground)
    on_solid, on_ground = np.flatnonzero(reach < ground), np.flatnonzero((ground <= reach) & np.isfinite(ground))
    sky = np.flatnonzero(np.isinf(distance))
    colour, semantic = np.empty(directions.shape, np.float32), np.full(len(reach), SEMANTIC["sky"], np.uint8)
    semantic[on_solid] = scene.solids.semantic[solid[on_solid]]
    lit, semantic[on_ground] = _ground(scene, directions[:, on_ground], distance[on_ground], light[:, on_ground])
    _scatter(colour, sky, _sky(scene.look, *directions[:, sky]))
    _scatter(colour, on_ground, _through_air(scene.look, lit, distance[on_ground]))
    lit = _solids(scene, camera, solid[on_solid], distance[on_solid], directions[:, on_solid])
    _scatter(colour, on_solid, _through_air(scene.look, lit, distance[on_solid]))
    return colour, semantic, distance


def _scatter(colour, at, values):
    for channel, value in zip(colour, values, strict=True):
        channel[at] = value


def _through_air(look, light, distance):
    """Display values of linear light (squared display values), with haze."""
    colour = np.sqrt(light)
    share = 1 - np.exp(distance * np.float32(-1 / look.visibility))
    colour += share * (np.float32(look.horizon)[:, None] - colour)
    return colour


def ground_distance(camera: Camera, z: np.ndarray) -> np.ndarray:
    """Distance along rays with vertical direction z to the ground, inf where they miss it or where it is too far."""
    with np.errstate(divide="ignore"):
        distance = np.where(z < 0, np.float32(-camera.above) / z, np.float32(np.inf))
    return np.where(distance > FAR, np.float32(np.inf), distance)


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
    return colour


def _ground(scene, directions, distance, light):
    """Squared display values (3, M) of ground points, and their semantic class."""
    sx, sy = scene.street.from_ego(directions[0] * distance, directions[1] * distance)
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
    sun, sky = light
    look = scene.look
    shine = np.float32(look.ambient)[:, None] * sky + np.float32(look.sun_colour * look.sun[2])[:, None] * sun
    return albedo * albedo * shine, kind


def ground_light(scene: Scene, camera: Camera) -> np.ndarray:
    """(2, H, W): the shares of sun and sky light that reach the ground at each pixel centre, 0..1.

    Shadows are cast from the ground towards the sun with the same slab test as everything else.
    """
    grid = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    x, y, z = camera.rays(*grid)
    distance = ground_distance(camera, z)
    distance = np.where(np.isfinite(distance), distance, 0)
    gx, gy = np.broadcast_to(x * distance, (camera.height, camera.width)), y * distance
    sun, sky = np.ones(gy.shape, np.float32), np.ones(gy.shape, np.float32)
    _shadows(scene, camera, grid, gx, gy, sun)
    _contact(scene, camera, grid, gx, gy, sky)
    return np.stack([_soften(sun), _soften(sky)])


def _soften(a):
    out = a.copy()
    out[1:-1] = (a[:-2] + 2 * a[1:-1] + a[2:]) * np.float32(0.25)
    inner = out.copy()
    out[:, 1:-1] = (inner[:, :-2] + 2 * inner[:, 1:-1] + inner[:, 2:]) * np.float32(0.25)
    return out


def _shadows(scene, camera, grid, gx, gy, out):
    solids, sun = scene.solids, scene.look.sun
    corners = solids.corners
    fall = corners[..., 2:] / sun[2] * sun
    area = camera.windows(corners - fall, *grid)
    pixels = np.maximum(area[:, 1] - area[:, 0], 0) * np.maximum(area[:, 3] - area[:, 2], 0)
    big = (pixels >= 12) & (solids.size.max(1) > 0.3)
    area[~big] = 0

    def rays_of(rows, columns):
        return (gx[rows, columns], gy[rows, columns], np.float32(0)), tuple(sun.astype(np.float32))

    for rows, columns, _, _ in intersect(solids, area, rays_of):
        out[rows, columns] = 0


def _contact(scene, camera, grid, gx, gy, out):
    """Less sky light right below and beside things."""
    if not scene.things:
        return
    reach, boxes = 0.6, []
    for thing in scene.things:
        cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
        long, wide = thing.size[:2] / 2 + reach
        flat = [(cos * a * long - sin * b * wide, sin * a * long + cos * b * wide) for a in (1, -1) for b in (1, -1)]
        boxes.append([(thing.centre[0] + x, thing.centre[1] + y, z) for z in (0, 0.01) for x, y in flat])
    area = camera.windows(np.array(boxes), *grid)
    for thing, (r0, r1, c0, c1) in zip(scene.things, area.tolist(), strict=True):
        if r1 <= r0 or c1 <= c0:
            continue
        win = (slice(r0, r1), slice(c0, c1))
        cos, sin = np.float32(np.cos(thing.yaw)), np.float32(np.sin(thing.yaw))
        x, y = into_frame(cos, sin, gx[win] - np.float32(thing.centre[0]), gy[win] - np.float32(thing.centre[1]))
        long, wide = (float(a) / 2 - 0.05 for a in thing.size[:2])
        gap = np.maximum(np.maximum(np.abs(x) - long, np.abs(y) - wide), 0)
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
    sun = np.float32(look.sun)
    facing = np.maximum(sun[0] * normal[0] + sun[1] * normal[1] + sun[2] * normal[2], 0)
    sky = (np.float32(0.72) + np.float32(0.28) * normal[2]) * (
        np.float32(0.72) + np.float32(0.28) * np.minimum(points[2], 1)
    )
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
        patch = Patch(
            *local[:, at],
            *half[:, own],
            face[at],
            albedo[:, at],
            solids.accent.T[:, own],
            solids.variant[own],
            np.zeros(len(at), np.float32),
            np.zeros(len(at), np.float32),
        )
        PAINT[code](patch)
        albedo[:, at], glow[at], gloss[at] = patch.colour, patch.glow, patch.gloss


def _mirror(look, directions, normal):
    """Sky reflected in a glossy face: bright above the horizon, dark below, brighter at grazing angles."""
    along = (directions * normal).sum(0)
    up = directions[2] - 2 * along * normal[2]
    length = np.sqrt((directions * directions).sum(0))
    up, grazing = up / length, 1 + along / length
    sky = np.float32(look.horizon)[:, None] + (np.float32(look.zenith) - np.float32(look.horizon))[:, None] * (
        np.clip(up, 0, 1)
    )
    bright = np.clip(up * 3 + np.float32(0.55), 0.12, 1) * (np.float32(0.6) + grazing * grazing)
    return sky * sky * bright
