"""04 KITTI pseudo-LiDAR, carried out: a depth network and its clouds, then the arms, scored, compared and kept."""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from kdnb.datasets.kitti_augment import all_views
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_labels import KittiLabel, write_labels
from kdnb.datasets.kitti_views import PLAIN, KittiViews, PreparedFrames, as_sample, collate, crop, shrink
from kdnb.datasets.pseudo_lidar import pseudo_points
from kdnb.distill.distiller import Distiller, require_stronger_teacher
from kdnb.engine import Plan, TrainHistory, accelerator, dataloader_kwargs, fit, move
from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.metrics.kitti import bootstrap_kitti, kitti_cases, kitti_curves
from kdnb.models.centre_head import decode
from kdnb.models.depth import DepthModel, depth_model
from kdnb.models.depth_net import depth_step
from kdnb.models.fusion3d import Fusion3D
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.kitti_clouds import VIEWS, DepthViews, cloud_path, collate_depth, depth_errors, write_clouds
from kdnb.projects.kitti_pseudo_lidar import (
    ABLATION_ARMS,
    ARMS,
    COMPARISONS,
    HEADLINES,
    KD,
    PRIMARY,
    PROJECT,
    Arm,
    Data,
    KittiPseudoLidarSettings,
    build,
    build_depth,
    build_distiller,
    found_labels,
    frames_with_objects,
    ground_truth,
    kitti_scores,
    open_data,
)
from kdnb.projects.step_cost import cost_of_distilling
from kdnb.run import Run

SOME = 50  # frames tell a depth network's errors, each has thousands of measured pixels


class Experiment:
    """All arms of one run of 04; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder.

    "depth" is kept like an arm: the depth network. Its clouds lie in ``pseudo/`` of the run's folder.
    """

    def __init__(self, run: Run, settings: KittiPseudoLidarSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.network == "lite" and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small maps gain nothing from a second thread, and often lose
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        self.clouds = run.folder / "pseudo"
        self.views = all_views(settings.turns, settings.scales)
        self.prepared = {
            split: PreparedFrames(
                getattr(data, split),
                settings.grid.range,
                settings.image_width,
                settings.least_points,
                lambda frame: cloud_path(self.clouds, frame),
                keep=data.drawn,
            )
            for split in ("train", "validation", "test")
        }
        self.truth = {split: ground_truth(getattr(data, split)) for split in ("validation", "test")}
        known = frames_with_objects(data.train)
        if settings.few_labels >= len(known):
            raise InputError(
                f"few_labels is {settings.few_labels}, expected fewer than the {len(known)} training "
                "frames with objects"
            )
        self.known = known
        order = np.random.default_rng((run.seed, 0)).permutation(known).tolist()
        self.labelled = sorted(order[: settings.few_labels])
        self.unlabelled = sorted(set(range(len(data.train))) - set(self.labelled))

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train "depth", "baseline_matched", or any arm of ARMS and ABLATION_ARMS; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def _prepare(self, new: list[str]) -> None:
        if "baseline_matched" in new:
            self.cost_of_distilling()

    def train_all(self, ablations: bool = False) -> None:
        """Depth and teacher, students that it does not teach, the check that it is worth learning from, the others."""
        self.train_together("depth", "teacher")
        self.train_together("baseline_matched", "baseline", "few_labels_baseline")  # the longest first
        self.check_teacher()
        self.train_together("distilled", *ARMS, *(ABLATION_ARMS if ablations else []))

    def learns_from_teacher(self, name: str) -> bool:
        return bool((ARMS | ABLATION_ARMS).get(name, Arm()).terms)

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        if name == "depth":
            return []
        if name == "baseline_matched":
            return ["depth", "teacher"]
        arm = self.arm(name)
        needed = ["depth"] if arm.points == "pseudo" else []
        if self.learns_from_teacher(name):
            return [*needed, "teacher", "baseline"]  # the baseline says whether this teacher is worth learning from
        if arm.of:
            return [*needed, arm.of]
        return needed if arm.scratch else [*needed, "teacher"]

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.kitti_pseudo_lidar", self.run, self.root, names, claims)

    def check_teacher(self) -> None:
        """Refuse a teacher that is no better on validation than the student without it."""
        teacher, baseline = self.train("teacher").validation, self.train("baseline").validation
        require_stronger_teacher(teacher, baseline, f"validation {PRIMARY}", self.settings.allow_weaker_teacher)

    def arm(self, name: str) -> Arm:
        if name == "baseline_matched":
            return Arm(longer=max(1.0, self.cost_of_distilling()))
        return (ARMS | ABLATION_ARMS)[name]

    def cost_of_distilling(self) -> float:
        """How many times longer than the baseline ``distilled`` trains for; see ``step_cost``."""
        self.write_clouds()
        teacher = self.train("teacher").model
        views, plan = self._batches(Arm(KD))

        def fresh(terms):
            return lambda: build_distiller(build(self.settings, self.run.seed), teacher, terms, self.settings)

        return cost_of_distilling(
            self.run,
            self.acc,
            fresh(()),
            fresh(KD),
            lambda: [collate([views[key] for key in plan.batch(step)]) for step in range(12)],
            train_config(self.settings, self.settings.student_steps, self.settings.lr),
            lambda: 0.0,
        )

    def _fit(self, name: str) -> Result:
        if name == "depth":
            return self._fit_depth()
        settings, arm = self.settings, self.arm(name)
        if arm.points == "pseudo":
            self.write_clouds()
        if arm.of:
            of = self.train(arm.of)
            return self._finish(name, of.model, TrainHistory(), self._score(of.model, "validation", arm))
        # every student starts from the same weights: what differs between arms is only what the arm says
        is_teacher = arm.points == "velodyne"
        model = build(settings, self.run.seed + 1000 * is_teacher)
        teacher = self.train("teacher").model if arm.terms or not arm.scratch else None
        if not arm.scratch:
            model.load_state_dict(teacher.state_dict())
        steps = settings.teacher_steps if is_teacher else round(settings.student_steps * arm.longer)
        distiller = build_distiller(model, teacher, arm.terms, settings)
        torch.manual_seed(self.run.seed)
        fitted = fit(
            distiller,
            *self._batches(arm),
            train_config(settings, steps, settings.lr),
            collate=collate,
            name=name,
            checkpoint=self._checkpoint(name),
            validate=lambda _: self._score(model, "validation", arm),
        )
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        return self._finish(name, model, fitted, validation)

    def _checkpoint(self, name: str) -> Path | None:
        return self.run.folder / "checkpoints" / f"{name}.pt" if self.settings.checkpoint_every else None

    def _batches(self, arm: Arm) -> tuple[KittiViews, Plan]:
        """The arm's data and batches: with few labels, a distilled student fills half of each batch without boxes."""
        size, pools, labelled = self.settings.batch, [(self.known, self.settings.batch)], None
        if arm.few_labels:
            labelled, pools = self.labelled, [(self.labelled, size)]
            if arm.terms:
                pools = [(self.labelled, size // 2), (self.unlabelled, size - size // 2)]
        views = KittiViews(
            self.prepared["train"],
            arm.points,
            PLAIN | self.views,
            labelled,
            arm.image,
            bool(arm.terms),
            color_jitter=True,
        )
        return views, Plan(pools, tuple(self.views), self.run.seed)

    def _finish(self, name: str, model: Fusion3D, fitted: TrainHistory, validation: float) -> Result:
        found = self.detect(model, "test", self.arm(name))
        scores = kitti_scores(self.truth["test"], found_labels(found, self.data.test), self.settings.distances)
        shown = {key: value for key, value in scores.items() if key in HEADLINES or key.startswith(f"{PRIMARY}_")}
        numbers = {
            **shown,
            "kitti": scores,
            "params": count_parameters(model),
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc),
            "steps": fitted.steps,
        }
        answers = {frame: {key: value.tolist() for key, value in one.items()} for frame, one in found.items()}
        return self._keep(name, Result(model, answers, numbers, validation, fitted))

    def _keep(self, name: str, result: Result) -> Result:
        if self.acc.is_main_process:
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> nn.Module:
        if name == "depth":
            return build_depth(self.settings, 0).to(self.acc.device)
        return build(self.settings.model_copy(update={"pretrained": False}), 0).to(self.acc.device)

    # --- depth and clouds ---------------------------------------------------------------------------------------

    def _fit_depth(self) -> Result:
        settings = self.settings
        net, fitted, validation = build_depth(settings, self.run.seed), TrainHistory(), float("nan")
        if settings.depth == "tiny":
            views = DepthViews(self.data.train, settings.depth_size, keep=self.data.drawn)
            how = dataclasses.replace(train_config(settings, settings.depth_steps, settings.depth_lr), clip=1.0)
            plan = Plan([(range(len(views)), settings.depth_batch)], VIEWS, self.run.seed)
            fitted = fit(
                Distiller(net, student_step=depth_step),
                views,
                plan,
                how,
                collate=collate_depth,
                name="depth",
                checkpoint=self._checkpoint("depth"),
            )
        model = depth_model(settings.depth, net)
        errors = {split: depth_errors(model, getattr(self.data, split)[:SOME]) for split in ("test", "train")}
        kept = ("delta1.25", "AbsRel", "RMSE", "MAE")
        numbers = {
            **{key: errors["test"][key] for key in kept},
            "AbsRel_train": errors["train"]["AbsRel"],
            "params": model.parameters,
            "size_mb": state_dict_mb(net),
            "train_s": training_seconds(fitted, self.acc),
            "steps": fitted.steps,
        }
        by_distance = {split: one["by_distance"] for split, one in errors.items()}
        result = self._keep("depth", Result(net, by_distance, numbers, validation, fitted))
        self.arms.results["depth"] = result
        self.write_clouds()
        return result

    @cached_property
    def depth(self) -> DepthModel:
        """Image → z in metres: the trained network, or what the settings name."""
        return depth_model(self.settings.depth, self.train("depth").model)

    def how_sampled(self) -> dict:
        """The settings of ``pseudo_points``."""
        settings = self.settings
        return {
            "sampling": settings.sampling,
            "share": settings.share,
            "beams": settings.beams,
            "intensity": settings.intensity,
            "seed": self.run.seed,
        }

    def write_clouds(self) -> None:
        """The pseudo-LiDAR of all frames, below ``pseudo/`` of the run's folder; done already, it only looks."""
        self.train("depth")
        write_clouds(self.data.sources, self.clouds, lambda: self.depth, self.acc, **self.how_sampled())

    # --- detections ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, model: Fusion3D, split: str, arm: Arm) -> dict[str, dict]:
        """frame → "boxes" (K, 7), "scores" (K,), "labels" (K,) of a split's frames, as the arm sees them."""
        training, size = model.training, self.settings.batch
        model.eval()
        views = KittiViews(self.prepared[split], arm.points, image=arm.image)
        keys = [(i, "plain") for i in range(len(views))]
        loader = DataLoader(
            views,
            batch_sampler=[keys[i : i + size] for i in range(0, len(keys), size)],
            collate_fn=collate,
            generator=torch.Generator(),
            **dataloader_kwargs(self.settings.workers),
        )
        found = {}
        for batch in loader:
            found |= zip(batch["names"], self._answers(model, batch), strict=True)
        model.train(training)
        return found

    def _answers(self, model: Fusion3D, batch: dict) -> list[dict]:
        batch = move(batch, self.acc.device)
        output = model(batch["points"], batch["images"], batch["projections"])
        return decode(output, model.grid, self.settings.score_threshold)

    def _score(self, model: Fusion3D, split: str, arm: Arm) -> float:
        found = found_labels(self.detect(model, split, arm), getattr(self.data, split))
        return kitti_curves(self.truth[split], found, "loose")["Car"]["3d"]["moderate"].ap["R40"]

    def detections(self, name: str) -> dict[str, dict]:
        """What a finished arm finds on test: frame → "boxes" (K, 7), velodyne frame, "scores" (K,), "labels" (K,)."""
        return {
            frame: {
                "boxes": np.array(one["boxes"]).reshape(-1, 7),
                "scores": np.array(one["scores"]),
                "labels": np.array(one["labels"], int),
            }
            for frame, one in self.results[name].answers.items()
        }

    def detected_labels(self, name: str) -> dict[str, list[KittiLabel]]:
        """The same as KITTI's files have it."""
        return found_labels(self.detections(name), self.data.test)

    def save_detections(self, name: str) -> Path:
        """Write ``detections/<name>/<frame>.txt`` in the run's folder, one a test frame, for the official tool."""
        folder = self.run.folder / "detections" / name
        folder.mkdir(parents=True, exist_ok=True)
        for frame, labels in self.detected_labels(name).items():
            write_labels(folder / f"{frame}.txt", labels)
        return folder

    @torch.no_grad()
    def ask(self, name: str, image: np.ndarray, calibration: Calibration, points: np.ndarray | None = None) -> dict:
        """A student's answer to any image, or a LiDAR arm's to an image and its cloud.

        Args:
            image: uint8 (H, W, 3); calibration: its camera's. points: (N, 4); pseudo-LiDAR of the image if None.

        Returns:
            "boxes" (K, 7), "scores", "labels" as in ``detections``; "points" (N, 4), what was looked at; "depth"
            (H, W), or None with points.
        """
        arm, model = self.arm(name), self.train(name).model.eval()
        depth = None
        if points is None:
            depth = self.depth(image) * self.lens(image, calibration)
            points = pseudo_points(depth, image, calibration, **self.how_sampled())
        size = image.shape[1::-1]
        seen = crop(points, calibration, size, model.grid.range)
        small, scale = shrink(image if arm.image else np.zeros_like(image), self.settings.image_width)
        batch = collate([as_sample(small, scale @ calibration.projection(), seen)])
        answer = self._answers(model, batch)[0]
        return {**{key: value.numpy() for key, value in answer.items()}, "points": points, "depth": depth}

    def lens(self, image: np.ndarray, calibration: Calibration) -> float:
        """What to multiply ``tiny``'s depth by for another camera: a longer lens makes things look larger, and so
        nearer, by the ratio of the focal lengths as shares of the picture's width (as Yin et al. 2023, Metric3D, arXiv
        2307.10984, section 3.1, do in training)."""
        if self.settings.depth != "tiny":
            return 1.0
        known = self.data.train[0]
        longer = calibration.P2[0, 0] / image.shape[1]
        return longer / (known.calibration.P2[0, 0] / known.image_size[0])

    # --- evidence -----------------------------------------------------------------------------------------------

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over the test frames."""
        cases = {
            name: kitti_cases(self.truth["test"], self.detected_labels(name), "loose")["Car", "3d", "moderate"]
            for name in self.results
            if name != "depth"
        }

        def metric(name):
            return lambda weights: bootstrap_kitti(cases[name], weights)["R40"]

        return compare_arms(self.results, COMPARISONS, metric, len(self.data.test))

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one test frame: both kinds of clouds and the way to pseudo-LiDAR, in turn.

        An arm on pseudo-LiDAR needs the depth network too: its costs stand beside the detector's as "..._depth".
        """
        frame, model = self.data.test[0], build(self.settings.model_copy(update={"pretrained": False}), 0).eval()
        calls = {}
        for points in sorted({fed(name) for name in self.results} - {"image"}):
            batch = collate([KittiViews(self.prepared["test"], points)[0, "plain"]])
            calls[points] = lambda b=batch: model(b["points"], b["images"], b["projections"])
        if "depth" in self.results:
            image, depth = frame.image(), self.depth
            calls["image"] = lambda: pseudo_points(
                depth(image, frame.name), image, frame.calibration, **self.how_sampled()
            )
        add_costs(self.results, calls, fed)
        for name, result in self.results.items():
            if fed(name) == "pseudo":
                result.numbers |= {
                    f"{key}_depth": self.results["depth"].numbers[key] for key in ("params", "flops", "latency_ms")
                }

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons, metrics.json and depth.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items() if name != "depth"}
        if "depth" in self.results:
            self.run.save_json("depth", self.results["depth"].numbers)
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons


def fed(name: str) -> str:
    """What an arm, or the depth network, gets to see: "velodyne", "pseudo" or "image"."""
    return "image" if name == "depth" else (ARMS | ABLATION_ARMS).get(name, Arm()).points


main = headless(
    PROJECT, KittiPseudoLidarSettings, open_data, Experiment, ("depth", *ARMS, "baseline_matched", *ABLATION_ARMS)
)
