import torch

from kdnb.datasets.car_views import collate
from kdnb.datasets.region_splits import RegionSplits, rendered_regions
from kdnb.datasets.street_crops import StreetCrops
from kdnb.distill.classification import soft_label_term
from kdnb.distill.distiller import Distiller
from kdnb.engine import Plan
from kdnb.evidence import mean_metric
from kdnb.experiment import Arm, Experiment, TrainSettings
from kdnb.models.classifier import CarClassifier, classifier_step, predict_logits

CLASSES = ["car", "potted plant"]


class ToySettings(TrainSettings):
    """Its values lie beside this file."""


def teacher_step(teacher, batch, student_outputs):
    return {"logits": teacher(batch["images"], batch["meta"])["logits"]}


class ToyCrops(Experiment):
    project, primary, settings_class = "08_toy_crops", "accuracy", ToySettings
    teacher_step, kept_outputs = staticmethod(teacher_step), ("logits",)
    bench_settings, cover = {"batch": 4}, ("08 a toy", (0, 0, 1, 1))
    arms = {
        "teacher": Arm(network="teacher"),
        "baseline": Arm(),
        "distilled": Arm(("kd_kl",), teacher="teacher"),
        "baseline_matched": Arm(matches="distilled"),
        "few_labels_baseline": Arm(labels=1),
        "few_labels_distilled": Arm(("kd_kl",), teacher="teacher", labels=1),
    }
    comparisons = (("distilled", "baseline"), ("few_labels_distilled", "few_labels_baseline"))

    @staticmethod
    def open_data(settings, data, root):
        splits = rendered_regions(root, 12, 6, (128, 96), 16)
        crops = (StreetCrops(one, CLASSES) for one in (splits.train, splits.validation, splits.test))
        return RegionSplits(splits.key, *crops)

    def build(self, arm, seed, settings):
        torch.manual_seed(seed)
        return CarClassifier("plain", len(CLASSES), 0, 16, 0.0, False, width=8 if arm.network == "teacher" else 4)

    def build_distiller(self, model, arm, teacher=None):
        terms = [soft_label_term(2.0)] if arm.terms else []
        return Distiller(model, teacher or self.teacher_of(arm), terms, classifier_step)

    def batches(self, arm):
        crops = self.data.train.with_labels(self.labelled(arm.labels))
        return crops, Plan(self.pools(arm), ("plain", "plain_flip"), self.run.seed), collate

    def train_items(self):
        return dict(enumerate(self.data.train.ids))

    def predict(self, model, split, arm):
        crops = getattr(self.data, split)
        return predict_logits(model, crops, [(row, "plain") for row in range(len(crops))], self.acc.device)

    def score(self, logits, split):
        return {"accuracy": 100 * float((logits.argmax(1).numpy() == getattr(self.data, split).labels).mean())}

    def as_record(self, logits):
        return (logits.argmax(1).numpy() == self.data.test.labels).tolist()

    def bootstrap_metric(self, name):
        return mean_metric([100 * right for right in self.results[name].predictions]), len(self.data.test)

    def one_call(self, model, name):
        return lambda: model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, 0))
