"""How well `traceward plan` predicts memory: python benchmarks/memory.py [--quick] [--beside] [--cases CASE ...]

Random models of about 30, 100 and 300 M parameters go through two stages of `traceward train`, each in a process of its
own: a warm-up of two discriminator updates, and two adversarial steps, the second of which finds all optimiser states
there. Measured is the highest resident memory of the process less what it held when everything was imported; predicted
is the plan's fullest moment of that stage. Experts are longer than the longest completion and are cut there, and a
random model hardly ever ends by itself, so every trace is as long as the plan assumes. Nothing in the plan was fitted
to these runs.

Where there is a GPU, models of the shapes of Qwen2.5-0.5B and 3B go through the same with groups of 8 completions of
1,024 tokens, held against torch's own peak; there the second step's seconds by part say what a policy step costs, with
policy and reward on one backbone and on two. Results of other cases are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import torch
from _record import RESULTS, record

from traceward.builtin import TOKENIZER
from traceward.config import load_recipe
from traceward.data.formats import encode_prompt
from traceward.data.jsonl import write_jsonl
from traceward.loading import load_tokenizer
from traceward.planning.memory import Memory
from traceward.planning.moments import Room
from traceward.training.run_directory import RunDirectory, source_commit
from traceward.training.step_times import PARTS
from traceward.workflows.inputs import load_task, quiet
from traceward.workflows.stages import do_stage

STAGES = ("reward", "adversarial")
ONE_STEP = {
    "policy.bf16": "false",
    "run.workers": "1",
    "run.checkpoint_every": "0",
    "data.validation": "0",
    "data.test": "2",
    "critic.warmup_updates": "2",
    "critic.warmup_at_least": "0",
    "critic.check_every": "1",
    "critic.rollouts_per_question": "2",
    "adversarial.steps": "2",
    "adversarial.accuracy_low": "0",
    "adversarial.accuracy_high": "1",
    "evaluation.policy_samples": "1",
    "evaluation.curve_every": "0",
}
Case = tuple[dict[str, Any], dict[str, str]]  # the model's shape, and settings
ON_CPU: dict[str, Case] = {
    "qwen2-30M": (
        {"model_type": "qwen2", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10}
        | {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True},
        {"critic.positives": "4", "critic.rollouts": "8", "adversarial.questions_per_step": "4"}
        | {"adversarial.group": "4", "adversarial.max_new_tokens": "64"},
    ),
    "llama-100M": (
        {"model_type": "llama", "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 14}
        | {"num_attention_heads": 10, "num_key_value_heads": 10, "tie_word_embeddings": False},
        {"reward.head": "scalar", "reward.granularity": "sparse", "policy.gradient_checkpointing": "true"}
        | {"critic.positives": "3", "critic.rollouts": "4", "adversarial.questions_per_step": "4"}
        | {"adversarial.group": "2", "adversarial.max_new_tokens": "48", "adversarial.rollouts_per_backward": "4"},
    ),
    "qwen3-300M-lora": (
        {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 22}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
        {"policy.adapter.rank": "16", "reward.adapter.rank": "16", "reward.shares_backbone": "true"}
        | {"critic.positives": "2", "critic.rollouts": "4", "adversarial.questions_per_step": "2"}
        | {"adversarial.group": "2", "adversarial.max_new_tokens": "32"},
    ),
}
QWEN_HALF_B = (
    {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
    | {"vocab_size": 151_936, "max_position_embeddings": 2048}
)  # fmt: skip
QWEN_3B = QWEN_HALF_B | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36} | {
    "num_attention_heads": 16
}  # fmt: skip
WHOLE_WEIGHTS = {
    "policy.bf16": "true",
    "policy.gradient_checkpointing": "true",
    "reward.gradient_checkpointing": "true",
    "critic.positives": "4",
    "critic.rollouts": "8",
    "critic.traces_per_pass": "8",
    "adversarial.questions_per_step": "2",
    "adversarial.group": "8",
    "adversarial.max_new_tokens": "1024",
    "adversarial.rollouts_per_backward": "8",
}
TWO_BACKBONES = WHOLE_WEIGHTS | {
    "policy.dtype": "bfloat16",
    "policy.adapter.rank": "32",
    "reward.adapter.rank": "32",
}
ONE_BACKBONE = TWO_BACKBONES | {"reward.shares_backbone": "true"}
ON_GPU: dict[str, Case] = {
    "qwen2.5-0.5B-lora-shared": (QWEN_HALF_B, ONE_BACKBONE),
    "qwen2.5-0.5B-lora": (QWEN_HALF_B, TWO_BACKBONES),
    "qwen2.5-0.5B": (QWEN_HALF_B, WHOLE_WEIGHTS),
    "qwen2.5-3B-lora-shared": (QWEN_3B, ONE_BACKBONE),
    "qwen2.5-3B-lora": (QWEN_3B, TWO_BACKBONES),
}
PLACE = "gpu" if torch.cuda.is_available() else "cpu"
CASES = ON_GPU if PLACE == "gpu" else ON_CPU


def write_case(name: str, place: Path, *, quick: bool) -> Path:
    """A random model, its data and its recipe."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, settings = CASES[name]
    shape = {"vocab_size": 32_000, "max_position_embeddings": 512} | shape
    if quick:
        shape = shape | {"num_hidden_layers": 4, "hidden_size": 64 * shape["num_attention_heads"] // 2}
    tokenizer = load_tokenizer(TOKENIZER)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**shape, **special)
    torch.manual_seed(0)
    dtype = getattr(torch, settings.get("policy.dtype", "float32"))
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    rng = random.Random(0)
    terms = max(20, int(settings["adversarial.max_new_tokens"]) // 6)  # a step has more than six tokens
    rows = []
    for number in range(18):
        numbers = [rng.randrange(10, 99) for _ in range(terms + number % 3)]
        sums = [sum(numbers[: at + 1]) for at in range(len(numbers))]
        steps = [f"{sums[at]} + {numbers[at + 1]} = {sums[at + 1]}" for at in range(len(numbers) - 1)]
        question = "Add up " + " and ".join(map(str, numbers[: 3 + number % 3])) + "."
        rows.append({"id": str(number), "question": question, "steps": steps, "answer": str(sums[-1])})
    (place / "data").mkdir()
    write_jsonl(place / "data" / "train.jsonl", rows[2:])
    write_jsonl(place / "data" / "test.jsonl", rows[:2])
    sections: dict[str, list[str]] = {"run": ['arms = ["adversarial"]']}
    sections["data"] = ['task = "jsonl"', f'path = "{place / "data"}"']
    sections["policy"] = [f'path = "{place / "model"}"']
    text = "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
    (place / "recipe.toml").write_text(text + "\n", encoding="utf-8")
    return place / "recipe.toml"


def overrides_of(name: str) -> list[str]:
    return [f"{key}={value}" for key, value in (ONE_STEP | CASES[name][1]).items()]


def child(run: Path, stage: str) -> None:
    """One stage in this process; prints its memory as the last line."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sklearn.metrics  # noqa: F401

    import traceward.training.adversarial
    import traceward.workflows.measure  # noqa: F401

    quiet()
    torch.set_num_threads(1)
    before = psutil.Process().memory_info().rss
    do_stage(RunDirectory(run), stage)
    found: dict[str, Any] = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before}
    if PLACE == "gpu":
        found = {"peak_bytes": torch.cuda.max_memory_allocated()}
    if stage == "adversarial":
        found["step"] = last_step(run)
    print(json.dumps(found))


def last_step(run: Path) -> dict[str, float]:
    """Seconds of the last step by part, and the mean tokens of its completions."""
    *_, row = (json.loads(line) for line in (run / "metrics" / "adversarial.jsonl").read_text("utf-8").splitlines())
    return {part: row[f"seconds_{part}"] for part in PARTS} | {"completion_tokens": row["completion_length"]}


def measure(name: str, *, quick: bool, timed: bool) -> dict[str, Any]:
    """Predicted and measured bytes of each stage."""
    with tempfile.TemporaryDirectory() as scratch:
        file = write_case(name, Path(scratch), quick=quick)
        recipe = load_recipe(file, overrides_of(name))
        task, tokenizer = load_task(recipe), load_tokenizer(TOKENIZER)
        longest = max(len(encode_prompt(d.problem, recipe.data.format, tokenizer)) for d in task.demonstrations)
        memory = Memory(recipe, Room(prompt=longest, on_gpu=PLACE == "gpu"))
        moments = memory.moments()
        run = RunDirectory.create(Path(scratch) / "run", recipe)
        found: dict[str, Any] = {"parameters": memory.models.policy_model.size().parameters, "prompt_tokens": longest}
        for stage in ("rollouts", *STAGES):
            command = [sys.executable, __file__, "--child", str(run.path), stage]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            said = json.loads(done.stdout.strip().splitlines()[-1])
            measured = said["peak_bytes"]
            fullest = max((m for m in moments if m.stage == stage), key=lambda m: m.total)
            found[stage] = {"moment": fullest.name, "predicted": fullest.parts | {"total": fullest.total}}
            found[stage] |= {"measured": measured, "relative_error": fullest.total / measured - 1}
            if timed and (step := said.get("step")):
                tokens = recipe.adversarial.questions_per_step * recipe.adversarial.group * step["completion_tokens"]
                found[stage]["step"] = step | {"tokens_per_second": tokens / sum(step[part] for part in PARTS)}
            print(name, stage, fullest.name, f"{fullest.total / 1e9:.3f}", f"{measured / 1e9:.3f} GB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller models, to see that the script works")
    parser.add_argument("--beside", action="store_true", help="other work runs on this machine: keep no times")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--child", nargs=2, metavar=("RUN", "STAGE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(Path(chosen.child[0]), chosen.child[1])
        return
    quiet()
    before = RESULTS / ("memory-quick.json" if chosen.quick else "memory.json")
    found = json.loads(before.read_text(encoding="utf-8"))["details"] if before.exists() else {}
    for name in chosen.cases:
        where = {"place": PLACE, "commit": source_commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
        if PLACE == "gpu":
            where["gpu"] = torch.cuda.get_device_name()
        found[name] = measure(name, quick=chosen.quick, timed=not chosen.beside) | where
        print(record("memory", seeds=[0], summary=summarise(found), details=found, quick=chosen.quick), flush=True)


def summarise(found: dict[str, Any]) -> dict[str, float | None]:
    """The worst prediction of each place, and what steps cost where they were timed on a GPU."""
    summary: dict[str, float | None] = {}
    for place in ("cpu", "gpu"):
        cases = [case for case in found.values() if case["place"] == place]
        if cases:
            errors = [abs(case[stage]["relative_error"]) for case in cases for stage in STAGES]
            summary[f"max_relative_error_{place}"] = round(max(errors), 4)
    for name, case in found.items():
        if case["place"] == "gpu":
            summary[f"{name}.peak_gb"] = case["adversarial"]["measured"] / 1e9
        if case["place"] == "gpu" and (step := case["adversarial"].get("step")):
            summary |= {f"{name}.{part}_seconds": step[part] for part in PARTS}
            summary[f"{name}.tokens_per_second"] = step["tokens_per_second"]
    return summary


if __name__ == "__main__":
    main()
