"""JSON over HTTP with a time limit; what may pass by itself is tried again, later each time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from traceward.errors import ConfigError, RunError

KEY = "OPENAI_API_KEY"
_PASSING = frozenset((HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS))
_LONGEST_WAIT = 60.0  # seconds


class Server:
    """url: up to and with the version, `http://localhost:8000/v1`.   timeout: seconds without an answer.

    tries: of a request that meets no server, a busy or a broken one; `wait` seconds before the second, twice as long
    before each further one, or what the server asks for. OPENAI_API_KEY is sent where it is set.
    """

    def __init__(self, url: str, *, timeout: float = 600.0, tries: int = 5, wait: float = 1.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with http:// or https://: got '{url}'; write it as http://HOST:PORT/v1")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.tries = tries
        self.wait = wait

    def get(self, path: str) -> dict[str, Any]:
        """The object at a path. Raises RunError where there is none to have."""
        return self._send(Request(self.url + path, headers=_headers()))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to an object. Raises RunError as `get`."""
        return self._send(Request(self.url + path, json.dumps(body).encode(), _headers()))

    def _send(self, request: Request) -> dict[str, Any]:
        for attempt in range(1, self.tries + 1):
            asked_wait = None
            try:
                with urlopen(request, timeout=self.timeout) as answer:
                    return _object(request.full_url, answer.read())
            except HTTPError as error:
                reason = f"{error.code} {error.reason}: {_message(error)}"
                if error.code not in _PASSING and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise RunError(
                        f"{request.full_url} must take the request: got {reason}; {_advice(error)}"
                    ) from error
                asked_wait = error.headers.get("Retry-After")
            except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.tries:
                wait = float(asked_wait) if asked_wait and asked_wait.isdecimal() else self.wait * 2 ** (attempt - 1)
                time.sleep(min(wait, _LONGEST_WAIT))
        advice = "start the server, or check its address"
        raise RunError(f"{request.full_url} must answer: got {reason} in {self.tries} tries; {advice}")


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY)
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def _object(url: str, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{url} must answer with a JSON object: got {body[:80]!r}; is this the address of the API?")
    return found


def _message(error: HTTPError) -> str:
    """What the server says of it: OpenAI's and others' ways to wrap it taken off."""
    text = error.read().decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
        while isinstance(found, dict):
            found = next(found[name] for name in ("error", "message", "detail") if name in found)
        text = str(found)
    except (ValueError, StopIteration):
        pass
    return " ".join(text.split())[:300]


def _advice(error: HTTPError) -> str:
    match error.code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return f"set {KEY}"
        case HTTPStatus.NOT_FOUND:
            return "check its address, which ends in /v1, and --model"
        case _:
            return "check --model, and that question and --max-new-tokens fit its context"
