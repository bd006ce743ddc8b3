"""How every benchmark writes its results: command, commit, seeds, environment, and a flat summary."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from traceward.data.jsonl import write_json
from traceward.training.run_directory import PACKAGES, installed_version, source_commit

RESULTS = Path(__file__).resolve().parent / "results"


def record(
    name: str, *, seeds: list[int], summary: dict[str, float | None], details: dict[str, Any], quick: bool
) -> Path:
    """Write benchmarks/results/NAME.json; a quick run goes beside it and never replaces a full one."""
    path = RESULTS / (f"{name}-quick.json" if quick else f"{name}.json")
    write_json(
        path,
        {
            "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "commit": source_commit(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seeds": seeds,
            "environment": {
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "threads": os.environ.get("OMP_NUM_THREADS"),
                **_gpu(),
                **{package: installed_version(package) for package in PACKAGES},
            },
            "summary": summary,
            "details": details,
        },
    )
    return path


def _gpu() -> dict[str, str]:
    """Its name, where torch is there already: some benchmarks measure a process that does without."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return {"gpu": cuda.get_device_name()} if cuda and cuda.is_available() else {}
