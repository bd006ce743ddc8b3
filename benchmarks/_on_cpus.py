"""Weights in pieces without a GPU: accelerate shards on GPUs only, and is told here to do so on CPUs, over gloo.

`python benchmarks/_on_cpus.py KIND VERB …` under torchrun is `traceward VERB …` with KIND: ddp, fsdp2, zero2, zero3
(the last two where deepspeed is installed). Their own code shards, as on GPUs; under ZeRO 3 also weights that are so
small that they would stay whole.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

KINDS = ("ddp", "fsdp2", "zero2", "zero3")


def shard_on_cpus(kind: str) -> None:
    """From here on every Accelerator of this process shards as `kind` says."""
    if kind == "fsdp2":
        _fsdp2()
    elif kind in ("zero2", "zero3"):
        _deepspeed(int(kind[-1]))


def _fsdp2() -> None:
    plain = Accelerator.__init__

    def sharding(self: Accelerator, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
            state_dict_type="FULL_STATE_DICT",
        )
        if self.state._mixed_precision == "bf16":  # which accelerate does where it finds FSDP by itself
            self.state.fsdp_plugin.set_mixed_precision("bf16")

    Accelerator.__init__ = sharding


def _deepspeed(stage: int) -> None:
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    }
    plain, made = PartialState.__init__, DeepSpeedPlugin.__post_init__

    def over_gloo(self: PartialState, cpu: bool = False, **options: Any) -> None:
        del cpu  # with it accelerate forgets DeepSpeed
        plain(self, cpu=False, **{**options, "backend": "gloo"})

    def in_pieces(self: DeepSpeedPlugin) -> None:
        made(self)
        if stage == 3:  # weights as small as these would stay whole
            self.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    PartialState.__init__ = over_gloo
    DeepSpeedPlugin.__post_init__ = in_pieces


def main() -> None:
    kind, *rest = sys.argv[1:]
    if kind not in KINDS:
        sys.exit(f"KIND must be one of {', '.join(KINDS)}: got {kind}")
    shard_on_cpus(kind)
    from traceward import cli

    sys.exit(cli.run(rest))


if __name__ == "__main__":
    main()
