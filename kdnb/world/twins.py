"""Twins: a second car (van, person, dog ...) added to a street, which differs from the first only in colour or side, so
that a model must understand that word of the command."""

from dataclasses import fields, replace

import numpy as np

from kdnb.world.camera import scene_camera
from kdnb.world.layout import Placer
from kdnb.world.phrases import colour_of, noun
from kdnb.world.referring import COLOURS_ALIKE, NOUNS_ALIKE, Referent, alike, clear_side
from kdnb.world.scene import CAST, Scene, Thing, build
from kdnb.world.solids import Solids, solids
from kdnb.world.vehicles import car

TWINNED = ("car", "car", "van", "truck", "bus", "person", "person", "dog")  # with repeats as weights
TRIES = 10
FOOT = 1.0  # metres; places of thinner scenery (trees, lamps, signs) are taken


def stage_twins(scene: Scene, kind: str, rng: np.random.Generator, width: int, height: int) -> Scene:
    """The scene with two things of one type that differ in ``kind``, "colour" or "side", alone.

    One of them stands in the scene already, the other is added; things that could be confused with either are removed.
    Returns the scene unchanged when nothing suits. Occlusion is not considered: the rendered image decides.
    """
    camera = scene_camera(scene, width, height)
    visible = [r for thing in scene.things if (r := _projected(thing, scene.solids, camera))]
    firsts = [r for r in visible if _fair(r, camera) and r.noun in TWINNED and clear_side(r)]
    for k in rng.permutation(len(firsts))[:3].tolist():
        first = firsts[k]
        second, part = _second(scene, first, kind, rng, camera)
        if second is not None:
            gone = [r.thing for r in visible if r is not first and _confused(r, first, second, kind)]
            return _exchanged(scene, gone, second.thing, part)
    return scene


def _projected(thing, parts, camera):
    """The referent of a thing by the projection of its solids among ``parts``; None out of view."""
    bounds = camera.bounds(parts.take(parts.instance == thing.instance).corners)
    outer = np.concatenate([bounds[:, :2].min(0), bounds[:, 2:].max(0)])
    box = np.clip(outer, 0, [camera.width, camera.height] * 2)
    wide, high = box[2:] - box[:2]
    if min(wide, high) <= 0:
        return None
    cut = 1 - wide * high / ((outer[2] - outer[0]) * (outer[3] - outer[1]))
    return Referent(
        noun(thing),
        colour_of(thing),
        tuple(box.tolist()),
        camera.width,
        float(np.hypot(*thing.centre[:2])),
        int(wide * high),
        1.0,
        float(cut),
        thing,
    )


def _fair(r, camera):
    """Whether a referent is large and complete enough for a pair."""
    return r.cut < 0.3 and min(r.box[2] - r.box[0], r.box[3] - r.box[1]) >= camera.width / 45


def _second(scene, first, kind, rng, camera):
    """(Referent, Solids) of a thing like ``first`` but for its side or colour, at a free place, or (None, None)."""
    nearest, farthest = CAST[first.noun][1:]
    for _ in range(TRIES):
        kit, attributes = _like(first.thing, kind, rng)
        parts = [(first.noun, kit, attributes)]
        spot = _placer(scene, rng, camera).find(first.noun, parts, (nearest, 2 * farthest), near=True)
        if spot is None:
            continue
        thing, part = _placed(kit, attributes, first.noun, len(scene.things) + 1, *spot)
        second = _projected(thing, part, camera)
        if second is None or not _fair(second, camera) or clear_side(second) is None:
            continue
        same_side = clear_side(second) == clear_side(first)
        same_colour = second.colour == first.colour
        if kind == "side" and same_colour and not same_side:
            return second, part
        if kind == "colour" and same_side and not alike(second.colour, first.colour, COLOURS_ALIKE):
            return second, part
    return None, None


def _like(thing, kind, rng):
    """A kit of the thing's category, of the same colour for a twin on another side. A car keeps body and trim."""
    if thing.category == "car":
        same = {key: thing.attributes[key] for key in ("body", "trim")}
        return car(rng, **same, colour=thing.attributes["colour"] if kind == "side" else None)
    for _ in range(40):
        (_, kit, attributes), *_ = build(thing.category, rng)
        if kind == "colour" or all(attributes.get(key) == thing.attributes.get(key) for key in ("colour", "cargo")):
            break
    return kit, attributes


def _placer(scene, rng, camera):
    """A Placer with the scene's things and the feet of its trees, lamps and signs."""
    placer = Placer(rng, scene.street, half_view=float(np.arctan(0.5 * camera.width / camera.fx)))
    for thing in scene.things:
        placer.claim_box(thing.centre, thing.size, thing.yaw)
        x, y = thing.centre[:2]
        reach = float(np.hypot(*thing.size[:2])) / 2 if abs(np.sin(thing.yaw)) > 0.5 else float(thing.size[1]) / 2
        if x > 1:
            placer.spans.append(((y - reach) / x, (y + reach) / x, float(np.hypot(x, y))))
    own, size = scene.solids.centre, scene.solids.size
    feet = (scene.solids.instance == 0) & (size[:, :2].max(1) < FOOT) & (own[:, 2] - size[:, 2] / 2 < 1)
    circles = np.column_stack([own[feet, :2], size[feet, :2].max(1) / 2])
    placer.circles = np.concatenate([placer.circles, circles])
    return placer


def _placed(kit, attributes, category, instance, x, y, yaw, place):
    """The Thing and the Solids of a kit placed at x, y, yaw."""
    low, high = kit.extent()
    middle, cos, sin = (low + high) / 2, np.cos(yaw), np.sin(yaw)
    centre = np.array([x + cos * middle[0] - sin * middle[1], y + sin * middle[0] + cos * middle[1], middle[2]])
    thing = Thing(
        instance, category, attributes, np.round(centre, 4), np.round(high - low, 4), round(float(yaw), 6), place
    )
    return thing, solids([(np.array(kit.rows), x, y, yaw, instance)])


def _confused(r, first, second, kind):
    """Whether the words that set the pair apart could also mean ``r``."""
    if not alike(r.noun, first.noun, NOUNS_ALIKE):
        return False
    if kind == "side":
        return True
    return any(r.colour is None or alike(r.colour, one.colour, COLOURS_ALIKE) for one in (first, second))


def _exchanged(scene, gone, thing, part):
    """The scene without the solids of some things and their riders (which stay in the list), plus a thing."""
    kept = scene.solids.take(~np.isin(scene.solids.instance, [i for t in gone for i in (t.instance, t.partner) if i]))
    both = Solids(*(np.concatenate([getattr(kept, f.name), getattr(part, f.name)]) for f in fields(Solids)))
    return replace(scene, solids=both, things=[*scene.things, thing])
