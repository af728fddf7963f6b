"""Every scheme is measured, and says of itself what it changes: rounding alone, unless contributions are skipped."""

import numpy as np
import torch

from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.methods.gradient_schemes import THRESHOLDS, measure_schemes


def test_order_and_direction_change_rounding_and_a_threshold_changes_more():
    model = random_gaussians(200, spread=0.1, scale=0.03, total_weight=0.5, seed=0)
    views = torch.from_numpy(random_rotations(2, np.random.default_rng(0))).float()
    costs = measure_schemes(model, views, box_size=32, pixel_size=1 / 32, repeats=1)
    tiles = [c for c in costs if c.scheme == "tiles"]
    assert len(tiles) == 4 * len(THRESHOLDS)
    assert all(c.forward_seconds >= 0 and c.backward_seconds >= 0 for c in costs)
    assert all(c.list_bytes > 0 for c in tiles)
    for skip in THRESHOLDS:
        same = [c for c in tiles if c.skip_below == skip]
        images, gradients = ({round(getattr(c, f), 4) for c in same} for f in ("image_change", "gradient_change"))
        assert len(images) == len(gradients) == 1  # whatever the order, and gathered or scattered
    # All pixels of touched tiles count where nothing is skipped; a cutoff of 3 sigma is all that differs then.
    change = {c.skip_below: c.image_change for c in tiles}
    assert change[0.0] < 0.02
    strong = measure_schemes(model, views, box_size=32, pixel_size=1 / 32, repeats=1, thresholds=(0.05,))[-1]
    assert strong.image_change > 2 * change[0.0]
