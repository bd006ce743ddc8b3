"""`traceward search`: look for the answer of each question step by step, and measure how often it is right.

Questions are searched in blocks; a block depends on nothing but its questions, so a job that was killed goes on behind
the last whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from traceward import __version__
from traceward.data.demonstrations import find_file, read_questions
from traceward.data.formats import encode_prompt
from traceward.data.grading import Grade
from traceward.data.jsonl import Faults, Row, fingerprint_file, read_jsonl, write_jsonl
from traceward.data.options import grade_answer
from traceward.data.partial import PartialRows
from traceward.decoding.beams import Generator
from traceward.decoding.search import Found, search
from traceward.errors import ConfigError
from traceward.evaluation.statistics import Estimate, bootstrap_mean
from traceward.records import Guide, Problem
from traceward.rewards.files import CARD
from traceward.rewards.model import RewardModel
from traceward.workflows.evaluate import refuse_long_prompt
from traceward.workflows.score import Progress, open_policy, silent

BLOCK = 32  # questions that are searched together
VLLM = "vllm:"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search; the words of `decoding.search`."""

    n: int = 8
    beams: int = 4
    groups: int = 1
    guide: Guide = Guide.SUM
    max_new_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """rows: one per question.   labelled: how many of them have a reference answer.

    measures: over labelled questions.   sampled_tokens: per question, over all.
    """

    rows: tuple[Row, ...]
    options: SearchOptions
    labelled: int = 0
    measures: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def sampled_tokens(self) -> Estimate:
        """The mean number of tokens that were drawn for a question."""
        return bootstrap_mean([row["sampled_tokens"] for row in self.rows], seed=self.options.seed)

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "questions": len(self.rows),
            "labelled": self.labelled,
            **asdict(self.options),
            "sampled_tokens": asdict(self.sampled_tokens),
            "rows": {name: asdict(found) for name, found in self.measures.items()} or None,
        }


def search_file(
    questions: Path,
    *,
    policy: str,
    reward: Path,
    model: str | None = None,
    temperature: float = 1.0,
    options: SearchOptions = SearchOptions(),
    out: Path | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Search for the answer of every question; rows go to `out` as they come, where it is a file.

    policy: a model directory, a hub name, builtin:stories, vllm:NAME, or the address of a server, whose `model` it is.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0: got {temperature}; beams of equal steps find one trace")
    file = find_file(questions, None)
    problems = read_questions(file)
    learned = RewardModel.load(reward)
    generator = open_generator(policy, learned, model=model, temperature=temperature)
    _check(file, problems, generator, learned, options.max_new_tokens)
    blocks = _Blocks(problems, generator, learned, options, progress)
    if out is None or (out.exists() and not out.is_file()):  # of a pipe or a device nobody can say what it has kept
        rows = [row for block in blocks.behind(0) for row in block]
        if out is not None:
            write_jsonl(out, rows)
        return _result(rows, options)
    job = {
        "traceward": __version__,
        "questions": fingerprint_file(file),
        "reward": fingerprint_file(reward / CARD),
        "policy": [policy, getattr(generator, "model", None), _files(policy)],  # a server may have chosen the model
        "temperature": temperature,
        **asdict(options),
    }
    with PartialRows(out, job, block=BLOCK) as kept:
        rows = list(kept.rows())
        for block in blocks.behind(kept.done):
            kept.append(block)
            rows += block
        kept.finish()
    return _result(rows, options)


def open_generator(policy: str, reward: RewardModel, *, model: str | None, temperature: float) -> Generator:
    """What writes the steps; see `search_file`."""
    if policy.startswith(("http://", "https://")):
        from traceward.decoding.endpoint import EndpointGenerator
        from traceward.decoding.server import Server

        return EndpointGenerator(Server(policy), reward.tokenizer, reward.style, model=model, temperature=temperature)
    if model is not None:
        raise ConfigError(f"model must go with the address of a server: got '{model}' with '{policy}'; leave it out")
    if policy.startswith(VLLM):
        from traceward.decoding.vllm import VLLMGenerator

        return VLLMGenerator.load(policy.removeprefix(VLLM), temperature=temperature)
    from traceward.decoding.huggingface import HuggingFaceGenerator

    return HuggingFaceGenerator(*open_policy(policy), temperature=temperature)


def _files(policy: str) -> list[list[object]]:
    """Tells a model directory from one that had its name before: its rows are those of another model."""
    place = Path(policy)
    files = sorted(place.iterdir()) if place.is_dir() else []
    return [[path.name, (stat := path.stat()).st_size, stat.st_mtime_ns] for path in files]


def _check(
    file: Path, problems: Sequence[Problem], generator: Generator, reward: RewardModel, max_new_tokens: int
) -> None:
    """Every question leaves room for its trace, in the policy and in the reward."""
    faults = Faults(file)
    for (line, _), problem in zip(read_jsonl(file), problems, strict=True):
        for model in (generator, reward):
            ids = encode_prompt(problem, reward.style, model.tokenizer)
            if refuse_long_prompt(faults, line, ids, model.context, max_new_tokens):
                break
    faults.raise_if_any()


@dataclass(frozen=True, slots=True)
class _Blocks:
    problems: Sequence[Problem]
    generator: Generator
    reward: RewardModel
    options: SearchOptions
    progress: Progress

    def behind(self, done: int) -> Iterator[list[Row]]:
        """The rows behind the first `done`, a block at a time."""
        total = len(self.problems)
        self.progress("searching", done, total)
        for start in range(done, total, BLOCK):
            seed = Random(f"{self.options.seed}-{start}").getrandbits(31)
            some = self.problems[start : start + BLOCK]
            found = search(self.reward, self.generator, some, **{**asdict(self.options), "seed": seed})
            yield [_row(item) for item in found]
            self.progress("searching", min(total, start + BLOCK), total)


def _row(found: Found) -> Row:
    """A question with its best trace, as `score` and `localise` read it, and all others."""
    problem = found.problem
    traces: list[dict[str, Any]] = [
        {
            "completion": trace.beam.text,
            "model_answer": trace.answer,
            "score": trace.score,
            "stop": str(trace.beam.stop),
            "tokens": len(trace.beam.completion_ids),
        }
        for trace in found.traces
    ]
    row = {"id": problem.id, "question": problem.question, **traces[0], "vote": found.vote}
    if problem.answer is not None:
        right = {
            "final_correct": _right(traces[0]["model_answer"], problem),
            "vote_correct": _right(found.vote, problem),
        }
        row |= {"answer": problem.answer, **right}
    return {**row, "sampled_tokens": found.sampled_tokens, "traces": traces}


def _right(given: str | None, problem: Problem) -> bool:
    return grade_answer(given, problem) is Grade.CORRECT


def _result(rows: Sequence[Row], options: SearchOptions) -> SearchResult:
    labelled = [row for row in rows if "answer" in row]
    columns = {
        "reward": [row["final_correct"] for row in labelled],
        "weighted_vote": [row["vote_correct"] for row in labelled],
        "oracle": [
            any(_right(t["model_answer"], Problem(row["id"], row["question"], row["answer"])) for t in row["traces"])
            for row in labelled
        ],
    }
    measures = {name: bootstrap_mean(column, seed=options.seed) for name, column in columns.items() if column}
    return SearchResult(tuple(rows), options, len(labelled), measures)
