"""Two processes against one: python benchmarks/distributed.py [--quick]

The same recorded rollouts, three rounds with two discriminator updates each, every objective, head and credit: by one
process, and by two that talk over gloo (DDP). The summary holds the largest difference of any weight of policy and
discriminator (`weights`), of any advantage (`advantages`), and of any logged figure of the discriminator (`figures`),
in all and for each objective and credit; `moved` is the smallest distance that any case's weights had come.

`fsdp2` (and `zero2`, `zero3`, where deepspeed is installed) are the largest differences of a discriminator that is
sharded; `run.fsdp2` and so on those of any weight, of policies and rewards, after a whole `traceward train` of
_together.toml by two processes, from the same by DDP, and `run.moved_most` how far a weight of its policy came.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _injected import names
from _record import record
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
QUICK = ["gail:log-ratio:consensus", "pairwise:scalar:step-local"]


def largest(pairs: Any) -> float:
    """The largest difference of paired numbers or tensors."""
    return max(float(torch.as_tensor(a - b).abs().max()) for a, b in pairs)


def differences(one: dict[str, Any], two: dict[str, Any]) -> dict[str, float]:
    """Of one case. Raises AssertionError where the two processes ended with different weights."""
    assert two["same_everywhere"]
    weights = [pair for model in ("policy", "critic") for pair in zip(one[model], two[model], strict=True)]
    figures = [
        (row[name], other[name])
        for row, other in zip(one["metrics"], two["metrics"], strict=True)
        for name in row
        if name.startswith("critic/")
    ]
    return {
        "weights": largest(weights),
        "advantages": largest(zip(one["advantages"], two["advantages"], strict=True)),
        "figures": largest(figures),
        "moved": one["moved"],
    }


def sharded(kind: str, room: Path) -> float:
    """The largest difference of weights, and of scores as a share of them, between a discriminator in one process and
    one sharded over two."""
    for name, launch in (("plain", [sys.executable]), (kind, LAUNCH)):
        if not (room / name / "figures.json").exists():
            subprocess.run([*launch, str(HERE / "_sharded.py"), name, str(room / name)], check=True)
    plain, other = (json.loads((room / name / "figures.json").read_text(encoding="utf-8")) for name in ("plain", kind))
    pairs: list[Any] = []
    for head in plain:
        weights = [load_file(room / name / head / "model" / "model.safetensors") for name in ("plain", kind)]
        pairs += [(weights[0][name], weights[1][name]) for name in weights[0]]
        for score, same in zip(plain[head]["scores"], other[head]["scores"], strict=True):
            pairs.append((score / max(1.0, abs(score)), same / max(1.0, abs(score))))
    return largest(pairs)


def trained(kind: str, room: Path) -> dict[str, torch.Tensor]:
    """Every weight that a whole run of two processes learns."""
    run = room / f"run-{kind}"
    command = [*LAUNCH, str(HERE / "_on_cpus.py"), kind, "train", str(HERE / "_together.toml"), "--out", str(run)]
    subprocess.run([*command, "--set", "run.checkpoint_every=0"], check=True)
    return {
        f"{place}/{name}": weights
        for place in ("policies/sft", "policies/adversarial", "reward/model", "reward-after/model")
        for name, weights in load_file(run / place / "model.safetensors").items()
    }


def runs(kinds: list[str], room: Path) -> dict[str, float]:
    """The figures of whole runs."""
    whole = trained("ddp", room)
    found = {}
    for kind in kinds:
        pieces = trained(kind, room)
        assert pieces.keys() == whole.keys()
        found[f"run.{kind}"] = largest([(whole[name], weights) for name, weights in pieces.items()])
    ways = [
        (weights, whole[name.replace("/adversarial/", "/sft/")])
        for name, weights in whole.items()
        if "/adversarial/" in name
    ]
    return {**found, "run.moved_most": largest(ways)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cases, to see that the script works")
    quick = parser.parse_args().quick
    cases = QUICK if quick else names()
    kinds = ["fsdp2", *(["zero2", "zero3"] if importlib.util.find_spec("deepspeed") else [])]
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        for name, launch in (("one", [sys.executable]), ("two", LAUNCH)):
            command = [*launch, str(HERE / "_injected.py"), str(room / f"{name}.pt"), "--only", *cases]
            subprocess.run(command, check=True)
        one, two = torch.load(room / "one.pt"), torch.load(room / "two.pt")
        details = {case: differences(one[case], two[case]) for case in cases if one[case] is not None}
        shards = {kind: sharded(kind, room) for kind in kinds} | ({} if quick else runs(kinds, room))
    summary: dict[str, float | None] = dict(shards)
    for measure in ("weights", "advantages", "figures"):
        summary[measure] = max(found[measure] for found in details.values())
    summary["moved"] = min(found["moved"] for found in details.values())
    for at, kind in ((0, "objective"), (2, "credit")):
        for name in sorted({case.split(":")[at] for case in details}):
            own = [found for case, found in details.items() if case.split(":")[at] == name]
            summary |= {f"{kind}.{name}.{m}": max(found[m] for found in own) for m in ("weights", "advantages")}
    refused = [case for case in cases if one[case] is None]
    record("distributed", seeds=[0], summary=summary, details={"cases": details, "refused": refused}, quick=quick)


if __name__ == "__main__":
    main()
