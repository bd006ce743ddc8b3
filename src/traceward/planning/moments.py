"""A moment of a run, and where the run is."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes on one GPU at the fullest point of a part of a stage."""

    stage: str
    part: str
    weights: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    logits: float = 0.0

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.stage}: {self.part}"

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by part."""
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Room:
    """Where a recipe runs: how many GPUs, whether FSDP2 shards what learns, and the longest prompt in tokens.

    on_gpu: False plans a run on a CPU.
    """

    gpus: int = 1
    sharded: bool = False
    prompt: int = 300
    on_gpu: bool = True
