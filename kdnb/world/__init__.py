"""A procedural street: scenes of solids, one ray caster, camera, LiDAR, annotations, exports in official formats."""
