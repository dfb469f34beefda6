"""Where the pixels of a rendered street lie."""

import numpy as np

from kdnb.world.camera import View


def visible_points(view: View) -> np.ndarray:
    """Ego points (H, W, 3) at the depth of each pixel centre."""
    rays = np.stack(np.broadcast_arrays(*view.camera.rays()), -1).astype(float)
    return rays * view.depth[..., None] + view.camera.origin
