import copy

import pytest
import torch
from torch import nn

from kdnb.distill.bev import bev_terms, box_kd, heat_kd, heated_mse, phase_weight, teacher_step
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.errors import InputError


def maps(seed=0, batch=2, channels=4):
    torch.manual_seed(seed)
    return {
        "bev": torch.randn(batch, channels, 6, 5),
        "heatmap": torch.randn(batch, 3, 6, 5) * 2,
        "boxes": torch.randn(batch, 9, 6, 5),
    }


def test_agreement_has_no_loss():
    t = maps()
    assert heated_mse(t["bev"], (t["bev"], t["heatmap"])) == 0
    assert heat_kd(t["heatmap"], t["heatmap"]) == 0
    assert box_kd(t["boxes"], (t["boxes"], t["heatmap"])) == 0


def test_losses_have_gradients_for_the_student_alone():
    s, t = maps(1), maps(2)
    for value in (*s.values(), *t.values()):
        value.requires_grad_()
    loss = (
        heated_mse(s["bev"], (t["bev"], t["heatmap"]))
        + heat_kd(s["heatmap"], t["heatmap"])
        + box_kd(s["boxes"], (t["boxes"], t["heatmap"]))
    )
    loss.backward()
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in s.values())
    assert all(v.grad is None for v in t.values())


def test_values_against_a_loop():
    s, t = maps(1, batch=1), maps(2, batch=1)
    heat = t["heatmap"].sigmoid()
    features = boxes = logits = 0.0
    weights = scores = 0.0
    for y in range(6):
        for x in range(5):
            h = heat[0, :, y, x].max()
            features += (0.01 + h) * (s["bev"] - t["bev"])[0, :, y, x].pow(2).mean()
            weights += 0.01 + h
            if h > 0.3:
                difference = (s["boxes"] - t["boxes"])[0, :, y, x]
                boxes += h * (difference[:6].abs().sum() + 2 * difference[6:8].pow(2).sum())
                scores += h
            for k in range(3):
                p, q = s["heatmap"][0, k, y, x].sigmoid(), heat[0, k, y, x]
                logits -= (q - p) ** 2 * (q * p.log() + (1 - q) * (1 - p).log())
    assert heated_mse(s["bev"], (t["bev"], t["heatmap"])).item() == pytest.approx((features / weights).item(), rel=1e-4)
    assert box_kd(s["boxes"], (t["boxes"], t["heatmap"])).item() == pytest.approx((boxes / scores).item(), rel=1e-4)
    assert heat_kd(s["heatmap"], t["heatmap"]).item() == pytest.approx((logits / heat.sum()).item(), rel=1e-4)


def test_losses_do_not_depend_on_the_batch_size():
    s, t = maps(1), maps(2)
    double_s, double_t = ({key: torch.cat([m[key]] * 2) for key in m} for m in (s, t))

    def values(a, b):
        return torch.stack(
            [
                heated_mse(a["bev"], (b["bev"], b["heatmap"])),
                heat_kd(a["heatmap"], b["heatmap"]),
                box_kd(a["boxes"], (b["boxes"], b["heatmap"])),
            ]
        )

    assert torch.allclose(values(s, t), values(double_s, double_t))


def test_a_teacher_without_detections_gives_no_box_loss():
    s, t = maps(1), maps(2)
    assert box_kd(s["boxes"], (t["boxes"], t["heatmap"] * 0 - 9)) == 0


def test_the_two_phases_are_the_originals():
    feature, logit = phase_weight("bev"), phase_weight("logit")
    assert [feature(0.0), feature(0.49), feature(0.5), feature(1.0)] == [2, 2, 0.5, 0.5]  # 2 to 1, 1.5 to 3
    assert [logit(0.2), logit(0.7)] == [1, 0.5]
    assert phase_weight("bev", 3.0, switch=0.8)(0.7) == 6


class Toy(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.features = nn.Conv2d(1, channels, 1)
        self.cls, self.reg = nn.Conv2d(channels, 3, 1), nn.Conv2d(channels, 9, 1)

    def forward(self, points, images, projections):
        bev = self.features(torch.stack(points))
        return {"bev": bev, "heatmap": self.cls(bev), "boxes": self.reg(bev)}


def step(model, batch):
    output = model(batch["points"], batch["images"], batch["projections"])
    return {"loss": 10 + output["heatmap"].pow(2).mean(), **output}


def test_in_the_distiller():
    torch.manual_seed(0)
    teacher, student = Toy(6), Toy(4)
    points = [torch.randn(1, 5, 5) for _ in range(2)]
    batch = {"points": points, "teacher_points": [p * 2 for p in points], "images": None, "projections": None}
    distiller = Distiller(student, LiveTeacher(teacher, teacher_step), bev_terms((4, 6)), step)
    early, late = distiller(batch, 0.0), distiller(batch, 0.9)
    assert list(early) == ["loss", "task", "kd_bev", "kd_logit", "kd_box"]
    assert early["kd_bev"].item() == pytest.approx(4 * late["kd_bev"].item(), rel=1e-4)
    assert early["kd_logit"].item() == pytest.approx(2 * late["kd_logit"].item(), rel=1e-4)
    early["loss"].backward()
    assert all(p.grad is not None for p in distiller.parameters())
    # a student that is the teacher, fed the teacher's points, has nothing to learn from logits and boxes
    terms = bev_terms((6, 6), ("kd_logit", "kd_box"), {"kd_box": 5.0})
    twin = Distiller(copy.deepcopy(teacher), distiller.teacher, terms, step)
    parts = twin({**batch, "points": batch["teacher_points"]}, 0.0)
    assert parts["kd_logit"] == 0 and parts["kd_box"] == 0 and parts["loss"] == parts["task"]


def test_unknown_terms_are_named():
    assert [term.name for term in bev_terms((4, 4), ("kd_box", "kd_bev"))] == ["kd_bev", "kd_box"]
    with pytest.raises(InputError, match="unknown term 'kd_boxes', expected some of kd_bev, kd_logit, kd_box"):
        bev_terms((4, 4), ("kd_bev", "kd_boxes"))
    with pytest.raises(InputError, match="unknown term 'bev'"):
        bev_terms((4, 4), scale={"bev": 2.0})
