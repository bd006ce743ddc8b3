"""Steps from a server that speaks OpenAI's completions: text out, text in, asked to stop at line breaks.

Such a server shows no token ids. What it has written is tokenised here, the whole text of a trace at once, by the
tokenizer of the reward that will read it: as the text of an expert is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traceward.data.formats import Format, encode_completion, parse_completion
from traceward.data.segmentation import LINE_BREAK
from traceward.decoding.beams import Beam
from traceward.decoding.server import Server
from traceward.errors import RunError
from traceward.records import StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARALLEL = 16  # requests under way at once; a server batches them


class EndpointGenerator:
    """Samples `model` of a server; left out, the first one that it serves.

    tokenizer, style: of the reward. The tokenizer's chat template is what a prompt is written with.
    """

    def __init__(
        self,
        server: Server,
        tokenizer: PreTrainedTokenizerBase,
        style: Format,
        *,
        model: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.server = server
        self.tokenizer = tokenizer
        self.style = style
        self.model = model or _first_model(server)
        self.temperature = temperature
        self.context = None  # the server knows it, and refuses what is longer

    def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
        """See `Generator`. A blank line stops it too, as servers know texts to stop at and not what a step is."""
        seeds = range(seed, seed + n * len(beams), n)
        with ThreadPoolExecutor(PARALLEL) as pool:
            answers = list(pool.map(self._ask, beams, [n] * len(beams), [max_new_tokens] * len(beams), seeds))
        return [self._extended(b, answer, n, max_new_tokens) for b, answer in zip(beams, answers, strict=True)]

    def _ask(self, beam: Beam, n: int, limit: int, seed: int) -> Mapping[str, Any]:
        # Servers put the beginning-of-sequence token in front themselves.
        prompt = beam.prompt.removeprefix(self.tokenizer.bos_token or "")
        return self.server.post(
            "/completions",
            {
                "model": self.model,
                "prompt": prompt + beam.text,
                "n": n,
                "max_tokens": limit - len(beam.completion_ids),
                "temperature": self.temperature,
                "top_p": 1.0,
                "stop": [LINE_BREAK],
                "seed": seed,
            },
        )

    def _extended(self, beam: Beam, answer: Mapping[str, Any], n: int, limit: int) -> list[Beam]:
        choices = answer.get("choices") or []
        if len(choices) != n or any(not isinstance(choice.get("text"), str) for choice in choices):
            raise RunError(
                f"{self.server.url}/completions must answer with n = {n} texts: got {len(choices)} choices; "
                "use a server that takes n"
            )
        found = [self._with_text(beam, choice, limit) for choice in sorted(choices, key=lambda c: c.get("index", 0))]
        if used := (answer.get("usage") or {}).get("completion_tokens"):
            # Of all choices together: what is over goes to the first.
            found = [replace(b, sampled=used // n + (used % n if at == 0 else 0)) for at, b in enumerate(found)]
        return found

    def _with_text(self, beam: Beam, choice: Mapping[str, Any], limit: int) -> Beam:
        written, end, _ = choice["text"].partition(self.tokenizer.eos_token)
        text = beam.text + written
        ended = bool(end) or (choice.get("finish_reason") == "stop" and self._is_end(choice, beam.text, text))
        if choice.get("finish_reason") == "stop" and not ended and not written.endswith(LINE_BREAK):
            text += LINE_BREAK  # servers leave out what they stop at
        ids = encode_completion(text, self.tokenizer, finished=ended, limit=limit)
        stop = None
        if ended and ids[-1] == self.tokenizer.eos_token_id:
            stop = StopReason.END
        elif len(ids) >= limit or choice.get("finish_reason") == "length":
            stop = StopReason.LENGTH
        sampled = max(1, len(ids) - len(beam.completion_ids))  # by our tokens, where a server does not count its own
        return replace(beam, completion_ids=ids, text=text, stop=stop, sampled=sampled)

    def _is_end(self, choice: Mapping[str, Any], before: str, text: str) -> bool:
        """Whether a trace is over, not just its step: OpenAI's protocol says "stop" in both cases.

        vLLM and SGLang name the text that they stopped at. Of other servers a trace is over behind its answer, and
        where nothing follows a blank line.
        """
        for name in ("stop_reason", "matched_stop"):
            if name in choice:
                return not isinstance(choice[name], str)
        answered = parse_completion(text, self.style).answer is not None
        return answered or (text == before and before.endswith(2 * LINE_BREAK))


def _first_model(server: Server) -> str:
    served = server.get("/models").get("data") or []
    if not served or not isinstance(served[0].get("id"), str):
        raise RunError(f"{server.url}/models must list a model: got none; name one with --model")
    name: str = served[0]["id"]
    return name
