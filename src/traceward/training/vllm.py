"""What can be set of rollouts by vLLM, which TRL runs and sends the policy's weights to."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from traceward.training.section import Section


class VLLMMode(StrEnum):
    """Where vLLM runs; TRL's words."""

    COLOCATE = "colocate"  # in the training processes, on their GPUs
    SERVER = "server"  # `trl vllm-serve` or `vllm serve`, on GPUs of its own


class VLLMSettings(Section):
    """Rollouts of policy steps by vLLM, through TRL."""

    mode: VLLMMode | None = None
    """Left out, transformers samples."""
    gpu_memory_utilization: float = Field(default=0.3, gt=0, lt=1)
    """colocate only: share of a GPU's memory for vLLM's weights and cache."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """colocate only: GPUs that hold one copy of the weights together."""
    max_model_length: int | None = Field(default=None, ge=1)
    """colocate only: longest prompt and completion; left out, the model's context."""
    sleep: bool = False
    """colocate only: vLLM's memory is given back while the policy is updated."""
    server_url: str | None = None
    """server only: left out, port 8000 of this machine."""
    server_timeout: float = Field(default=240.0, gt=0)
    """server only: seconds to wait for it."""

    @model_validator(mode="after")
    def _fits_the_mode(self) -> VLLMSettings:
        for name, field in type(self).model_fields.items():
            wanted = VLLMMode.SERVER if name.startswith("server_") else VLLMMode.COLOCATE
            if name != "mode" and getattr(self, name) != field.default and self.mode is not wanted:
                raise ValueError(
                    f"mode must be '{wanted}' with {name}: got {self.mode or 'none'}; set it, or remove that key"
                )
        return self
