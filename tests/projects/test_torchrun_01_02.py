"""01 and 02 under torchrun: two processes, gloo, an arm of every kind."""

import json
from pathlib import Path

from commands import TORCHRUN, python, stages

from kdnb.options import load_settings
from kdnb.projects.coco_alignment import CocoAlignmentSettings
from kdnb.projects.coco_alignment.exports import EXPORTED, find_networks, folder_of

# Both command lines in one pair of processes: most of the time goes into starting them. The first one would take leave
# of the other process at its end.
SCRIPT = """
import json, sys, torch
from kdnb.projects.coco_alignment.__main__ import main as run_01
from kdnb.projects.talk2car_grounding.__main__ import main as run_02
leave = torch.distributed.destroy_process_group
torch.distributed.destroy_process_group = lambda: None
run_01(json.loads(sys.argv[1]), standalone_mode=False)
torch.distributed.destroy_process_group = leave
run_02(json.loads(sys.argv[2]), standalone_mode=False)
"""
STAGES = [*EXPORTED, "few_labels_distilled", "test"], ["teacher", "distilled_projection", "distilled_finetuned"]


def command_lines(folder: Path):
    same = ["--profile", "smoke", "--root", str(folder / "drawn"), "--out", str(folder / "results")]
    return [json.dumps([*same, *stages(*some)]) for some in STAGES]


def test_both_projects_with_two_processes(tmp_path):
    """02 finds the networks that 01 has left; each arm is trained and each kept output computed once."""
    (tmp_path / "both.py").write_text(SCRIPT)
    printed, _ = python(*TORCHRUN, tmp_path / "both.py", *command_lines(tmp_path), cwd=tmp_path)
    assert printed.count("results: ") == 2  # one process tells, and writes
    first, second = (next((tmp_path / "results").glob(f"*_{number}_*")) for number in ("01", "02"))
    assert set(json.loads((first / "metrics.json").read_text())["arms"]) == set(STAGES[0]) - {"test"}
    settings = load_settings(CocoAlignmentSettings, "smoke")
    assert find_networks(folder_of(settings, 0, None, tmp_path / "drawn"), EXPORTED)
    assert {file.stem for file in (second / "arms").iterdir()} == {*STAGES[1], "distilled"}
    names = [folder.parent.name for folder in (second / "cache").glob("*/teacher_*")]
    # four parts of the commands, and the cells of two encoders for each; nothing left in part
    assert (
        sum(name.startswith("words_") for name in names) == 4 and sum(name.startswith("tokens_") for name in names) == 8
    )
    assert len(names) == 12 and not list((second / "cache").glob("*/*.part"))
