"""Training without cuDNN's attention, whose gradients are now and then no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Inside, PyTorch's attention takes one of its other kernels; outside, what it was told before.

    PyTorch 2.11 to 2.13 choose cuDNN on an H100 or H200 by themselves. Under a mask, where a length leaves 64 when
    divided by 128, its gradient of a query is NaN in rows of very low scores, and by what we saw in rows that see
    nothing, such as padding on the left. One such batch ends a run (github.com/pytorch/pytorch/issues/196678).
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
