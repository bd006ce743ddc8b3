"""Steps from vLLM: token ids in, token ids out; an extra (`pip install 'traceward[vllm]'`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traceward.data.segmentation import LINE_BREAK
from traceward.decoding.beams import Beam
from traceward.errors import ConfigError
from traceward.records import StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VLLMGenerator:
    """Samples a `vllm.LLM` at `temperature`. Its cache of prefixes spares it what the beams have in common."""

    def __init__(self, engine: Any, *, temperature: float = 1.0) -> None:
        self.engine = engine
        self.tokenizer: PreTrainedTokenizerBase = engine.get_tokenizer()
        self.temperature = temperature
        self.context = None  # the engine cuts a trace there

    @classmethod
    def load(cls, model: str, *, temperature: float = 1.0, **engine: Any) -> VLLMGenerator:
        """Start an engine; `engine` are arguments of `vllm.LLM`. Raises ConfigError where vLLM is not installed."""
        return cls(_vllm().LLM(model=model, **engine), temperature=temperature)

    def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
        """See `Generator`. A blank line stops it too, as vLLM knows texts to stop at and not what a step is."""
        parameters = [
            _vllm().SamplingParams(
                n=n,
                temperature=self.temperature,
                top_p=1.0,
                max_tokens=max_new_tokens - len(beam.completion_ids),
                stop=[LINE_BREAK],
                seed=seed + at * n,  # vLLM counts on from it for the n samples of a prompt
            )
            for at, beam in enumerate(beams)
        ]
        prompts = [{"prompt_token_ids": [*beam.prompt_ids, *beam.completion_ids]} for beam in beams]
        answers = self.engine.generate(prompts, sampling_params=parameters, use_tqdm=False)
        return [
            [self._extended(beam, output, max_new_tokens) for output in answer.outputs]
            for beam, answer in zip(beams, answers, strict=True)
        ]

    def _extended(self, beam: Beam, output: Any, limit: int) -> Beam:
        # Token ids hold the token that stopped it, text to stop at or end; a text that was asked for is named.
        ended = output.finish_reason == "stop" and not isinstance(output.stop_reason, str)
        found = beam.with_ids(tuple(output.token_ids), self.tokenizer, ended=ended, limit=limit)
        # The engine's own context may be used up before the limit.
        return replace(found, stop=StopReason.LENGTH) if output.finish_reason == "length" else found


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            "vllm must be installed to sample with it: got no such package; pip install 'traceward[vllm]'"
        ) from error
    return vllm
