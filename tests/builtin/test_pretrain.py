"""The first updates of the base model's pre-training, against literal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from traceward.builtin.pretrain import PLANS, build

# Printed by: python -c "from pathlib import Path; from tempfile import mkdtemp as d; from traceward.builtin.pretrain
# import *; print(build(Path(d()), Path(d()), PLANS['stories'], stop=8, problems=256))" with OMP_NUM_THREADS=1.
LOSSES = [6.8828, 6.8674, 6.8635, 6.8558, 6.8313, 6.8328, 6.8271, 6.8067]


# TRL still says it in the words that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
def test_the_first_losses_are_these(tmp_path: Path) -> None:
    """Locks tokenizer, traces, batch order, architecture, start and schedule at once: a change of any shows here.

    2e-3: kernels of other machines and versions of torch sum in another order.
    """
    losses = build(tmp_path / "model", tmp_path / "trainer", PLANS["stories"], stop=8, problems=256)
    assert losses == pytest.approx(LOSSES, abs=2e-3)
    assert (tmp_path / "model" / "model.safetensors").is_file()
