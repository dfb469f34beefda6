"""The full detector on a real frame, in a process of its own so that its peak memory can be told."""

import json

from commands import python

STEP = """
import json, resource, sys
import torch
from kdnb.datasets.kitti import KittiObject
from kdnb.datasets.kitti_boxes import boxes_in_lidar
from kdnb.datasets.kitti_labels import CLASSES
from kdnb.models.fusion3d import full_fusion3d, fusion_step

torch.set_num_threads(1)
torch.manual_seed(0)
frame = KittiObject(sys.argv[1], "train")[0]
objects = [label for label in frame.labels if label.type in CLASSES]
batch = {"points": [torch.from_numpy(frame.points())], "ids": [frame.name],
         "images": torch.from_numpy(frame.image()).permute(2, 0, 1)[None].float() / 255,
         "projections": torch.from_numpy(frame.calibration.projection())[None].float(),
         "boxes": [torch.from_numpy(boxes_in_lidar(objects, frame.calibration)).float()],
         "labels": [torch.tensor([CLASSES.index(label.type) for label in objects])]}
model = full_fusion3d(pretrained=False)
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
seen = fusion_step(model, batch)
seen["loss"].backward()
still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
optimizer.step()
print(json.dumps({"loss": seen["loss"].item(), "bev": seen["bev"].shape, "still": still, "objects": len(objects),
                  "points": len(batch["points"][0]),
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


def test_a_step_of_full_on_a_real_frame(real_data, capsys):
    printed, _ = python("-c", STEP, real_data / "kitti")
    told = json.loads(printed.splitlines()[-1])
    with capsys.disabled():
        print(f"\nfull detector, one step on {told['points']} points: {told['peak']:.1f} GiB at most")
    assert told["objects"] > 0 and 0 < told["loss"] < 1e6
    assert told["bev"] == [1, 512, 200, 176]
    assert told["still"] == []
    assert told["peak"] < 6
