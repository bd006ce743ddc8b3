"""Small random policies, and a real server of completions over one of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.sampling import generate, until_end


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def make_policy(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    """A random model of a family that likes line breaks and the end: about one token in four."""

    def make(family: str = "Llama") -> PreTrainedModel:
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
            tie_word_embeddings=False, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
            head = torch.nn.Linear(32, len(tokenizer))
            torch.nn.init.normal_(head.weight, std=0.2)
            torch.nn.init.zeros_(head.bias)
        with torch.no_grad():
            for token, more in ((tokenizer.eos_token_id, 4.0), (tokenizer.pad_token_id, -30.0)):
                head.bias[token] = more
            for text in ("\n", "\n\n"):
                for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
                    head.bias[token] = 5.5
        model.lm_head = head
        return model.eval()

    return make


class CompletionServer(ThreadingHTTPServer):
    """OpenAI's /v1/completions and /v1/models over a transformers model.

    names_stops: say at what text a choice stopped, as vLLM does.   faults: (status, headers, body) to answer with
    before anything else, one a request.   key: wanted as bearer token.
    """

    def __init__(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.policy = policy
        self.tokenizer = tokenizer
        self.names_stops = True
        self.counts = True
        self.faults: list[tuple[int, dict[str, str], bytes]] = []
        self.key: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()  # the random state is one for all threads

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        prompt = self.tokenizer(asked["prompt"])["input_ids"]
        with self.lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(asked["seed"])
            (rows,) = generate(
                self.policy, self.tokenizer, [prompt], n=asked["n"], max_new_tokens=asked["max_tokens"],
                temperature=asked["temperature"], top_p=asked["top_p"],
            )  # fmt: skip
        used, choices = 0, []
        for index, row in enumerate(rows):
            choice, tokens = self._choice(index, row, asked["stop"])
            used += tokens
            choices.append(choice)
        return {"choices": choices[::-1], **({"usage": {"completion_tokens": used}} if self.counts else {})}

    def _choice(self, index: int, row: list[int], stops: list[str]) -> tuple[dict[str, Any], int]:
        ids, ended = until_end(row, self.tokenizer.eos_token_id)
        for length in range(1, len(ids) + 1):
            text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
            for stop in stops:
                if stop in text:
                    told = {"stop_reason": stop} if self.names_stops else {}
                    text = text[: text.index(stop)]
                    return {"index": index, "text": text, "finish_reason": "stop", **told}, length
        told = {"stop_reason": None} if self.names_stops else {}
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return {"index": index, "text": text, "finish_reason": "stop" if ended else "length", **told}, len(ids)


class _Handler(BaseHTTPRequestHandler):
    server: CompletionServer

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "tiny"}, {"id": "other"}]} if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(asked)
        self._answer(self.server.complete(asked) if self.path == "/v1/completions" else None)

    def _answer(self, found: dict[str, Any] | None) -> None:
        status, headers, body = 200, {}, json.dumps(found).encode()
        if self.server.faults:
            status, headers, body = self.server.faults.pop(0)
        elif self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            status, body = 401, b'{"error": {"message": "no such key"}}'
        elif found is None:
            status, body = 404, b'{"detail": "Not Found"}'
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(
    make_policy: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> Iterator[CompletionServer]:
    with CompletionServer(make_policy(), tokenizer) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
