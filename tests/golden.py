"""Golden numbers: did a rebuild change what is trained? Not a test; run it by hand before and after.

    python tests/golden.py record golden.json RESULTS    # what the runs below RESULTS left behind, as one small file
    python tests/golden.py compare golden.json RESULTS   # every difference on a line of its own; exit status 1 if any

RESULTS is the ``--out`` of earlier runs, made on the same machine with ``KDNB_THREADS=1``, for example

    KDNB_THREADS=1 kdnb run --profile smoke --out RESULTS && KDNB_THREADS=1 kdnb run 03 06 --out RESULTS

Compared are a hash of every weights file and every number of ``metrics.json``, to the last bit. Left out are seconds,
and the arms whose length follows from measured seconds (``baseline_matched``).
"""

import hashlib
import json
import sys
from pathlib import Path

TIMES = ("train_s", "latency_ms", "fps", "latency_ms_depth", "train_s_depth")
MEASURED = "baseline_matched"


def weights_digest(path):
    """A hash of all tensors of a safetensors file, whatever their order in it."""
    import torch
    from safetensors.torch import load_file

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def numbers(value, path=""):
    """Flat {"arms/teacher/mAP50": 67.6} of nested dicts and lists."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    else:
        return {path: value}
    return {key: one for name, item in pairs for key, one in numbers(item, f"{path}/{name}").items()}


def golden(results):
    """{"03_voc_defeat lite s0": {"weights/teacher": hash, "/arms/teacher/mAP50": 67.6}}: the newest runs."""
    runs = {}
    for folder in sorted(Path(results).glob("result_*")):
        entries = {f"weights/{file.stem}": weights_digest(file) for file in (folder / "weights").glob("*.safetensors")}
        if (folder / "metrics.json").exists():
            metrics = json.loads((folder / "metrics.json").read_text())
            entries |= numbers({key: metrics[key] for key in ("arms", "comparisons")})
        kept = {
            key: value for key, value in entries.items() if MEASURED not in key and key.rpartition("/")[2] not in TIMES
        }
        if kept:
            runs[" ".join(folder.name.split("_", 3)[3].rsplit("_", 2))] = dict(sorted(kept.items()))
    return runs


def differences(before, after):
    """Lines that name what differs, or is only on one side."""
    lines = [f"{run}: no such run" for run in before if run not in after]
    for run in before:
        old, new = before[run], after.get(run, before[run])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                lines.append(f"{run}: {key}: {old.get(key)} -> {new.get(key)}")
    return lines


def main(command, file, results):
    if command == "record":
        Path(file).write_text(json.dumps(golden(results), indent=1) + "\n")
        return 0
    lines = differences(json.loads(Path(file).read_text()), golden(results))
    print("\n".join(lines) or f"equal: {file} and {results}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
