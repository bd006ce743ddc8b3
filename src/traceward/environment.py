"""The process around a verb: threads, memory, and the chatter of the libraries below."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from functools import cache

from traceward.errors import ConfigError


def threads() -> int | None:
    """OMP_NUM_THREADS, checked; None where it is not set. Runs hand it to their workers and stay without torch."""
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked and (not asked.isdecimal() or int(asked) < 1):
        raise ConfigError(f"OMP_NUM_THREADS must be a whole number from 1: got {asked!r}; set it to 1")
    return int(asked) if asked else None


def pin_threads() -> None:
    """OMP_NUM_THREADS decides, where it is set; torch's own choice stands where it is not."""
    if count := threads():
        import torch

        torch.set_num_threads(count)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MMAP, KEPT = 32 * 2**20, 2**30  # bytes; the first is the most that glibc takes


@cache
def keep_freed_memory() -> None:
    """Have glibc keep memory that tensors on a CPU give back, up to a gigabyte of it, for the next ones.

    Left to itself it fetches new pages for whatever is larger than all that was given back before. Keys and values are
    copied for every token sampled, each time a little larger: half of the time of long samples (docs/LOG.md). A
    threshold that the user has set stays, and other C libraries are left alone.
    """
    if sys.platform != "linux" or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_MMAP_THRESHOLD, MMAP)
        set_option(M_TRIM_THRESHOLD, KEPT)


def quieten() -> None:
    """Keep the progress bars and notices of the libraries off our output; what the user has set stays."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
