"""A drawn street: scenes of solids, one ray caster, a camera, a LiDAR, annotations, exports in official layouts."""
