"""What is done to the process around a verb."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.loading import load_policy
load_policy(STORIES_BASE, TOKENIZER)
cache = [torch.ones(64, 128 * 128) for _ in range(8)]  # 4 MB each, as keys and values of layers
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for token in range(40):
    cache = [torch.cat((old, torch.ones(64, 128)), 1) for old in cache]
fetched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(fetched * resource.getpagesize() // 2**20)
"""


def fetched(**environment: str) -> int:
    """Megabytes of pages fetched while the cache is copied for 40 tokens, 1,500 in all."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_with_a_policy_memory_that_tensors_give_back_is_kept_unless_the_user_has_set_a_threshold() -> None:
    assert fetched(MALLOC_ARENA_MAX="8") < 400
    assert fetched(MALLOC_MMAP_THRESHOLD_="131072") > 1000
