"""What TRL is told: vLLM, trackers, and the optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from traceward.config import resolve
from traceward.errors import ConfigError
from traceward.training.grpo import grpo_arguments, run_name
from traceward.training.settings import AdversarialConfig
from traceward.training.vllm import VLLMSettings
from traceward.workflows import train

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")


def told(tmp_path: Path, report_to: tuple[str, ...] = (), **settings: Any) -> Any:
    return grpo_arguments(AdversarialConfig(**settings), tmp_path, seed=0, report_to=report_to)


def test_the_optimiser_of_the_defaults_and_of_the_paper(tmp_path: Path) -> None:
    plain = told(tmp_path, steps=40)
    assert (plain.lr_scheduler_type, plain.warmup_steps, plain.weight_decay) == ("constant_with_warmup", 5, 0)
    assert (plain.adam_beta1, plain.adam_beta2, plain.top_p) == (0.9, 0.999, 1)
    paper = told(tmp_path, steps=400, schedule="cosine", warmup=0.1, weight_decay=0.1, beta2=0.99, top_p=0.95)
    assert (paper.lr_scheduler_type, paper.warmup_steps, paper.weight_decay) == ("cosine", 40, 0.1)
    assert (paper.adam_beta2, paper.top_p) == (0.99, 0.95)


def test_transformers_samples_where_nothing_is_said(tmp_path: Path) -> None:
    assert told(tmp_path).use_vllm is False


def test_vllm_in_the_training_processes_reaches_trl(tmp_path: Path) -> None:
    vllm = VLLMSettings(
        mode="colocate", gpu_memory_utilization=0.4, tensor_parallel_size=2, max_model_length=1200, sleep=True
    )
    found = told(tmp_path, vllm=vllm)
    assert (found.use_vllm, found.vllm_mode, found.vllm_gpu_memory_utilization) == (True, "colocate", 0.4)
    assert (found.vllm_tensor_parallel_size, found.vllm_max_model_length) == (2, 1200)
    assert found.vllm_enable_sleep_mode is True


def test_a_server_reaches_trl(tmp_path: Path) -> None:
    found = told(tmp_path, vllm=VLLMSettings(mode="server", server_url="http://far:9000", server_timeout=60))
    assert (found.use_vllm, found.vllm_mode, found.vllm_server_base_url) == (True, "server", "http://far:9000")
    assert found.vllm_server_timeout == 60
    assert told(tmp_path, vllm=VLLMSettings(mode="server")).vllm_server_base_url is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sleep": True}, "mode must be 'colocate' with sleep: got none"),
        ({"mode": "server", "max_model_length": 9}, "mode must be 'colocate' with max_model_length: got server"),
        ({"mode": "colocate", "server_url": "http://far"}, "mode must be 'server' with server_url: got colocate"),
    ],
)
def test_a_key_of_the_other_mode_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve({"adversarial": {"vllm": settings}}, where="run.toml")


ADAPTERS = {"policy": {"adapter": {"rank": 4}}, "reward": {"adapter": {"rank": 4}}}


@pytest.mark.parametrize(("section", "key"), [("policy", "load_in_4bit"), ("reward", "shares_backbone")])
def test_what_trl_would_send_wrongly_is_refused(section: str, key: str) -> None:
    tree: dict[str, Any] = {**ADAPTERS, section: {**ADAPTERS[section], key: True}}
    resolve(tree, where="run.toml")
    with pytest.raises(ConfigError, match=rf"{section}\.{key} must be false with adversarial\.vllm\.mode"):
        resolve({**tree, "adversarial": {"vllm": {"mode": "colocate"}}}, where="run.toml")


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "trackio"])
def test_trackers_reach_trl_under_the_name_of_run_and_stage(tmp_path: Path, tracker: str) -> None:
    place = tmp_path / "my-run-0" / "policies" / "outcome"
    found = grpo_arguments(AdversarialConfig(), place, seed=0, report_to=(tracker,))
    assert (found.report_to, found.run_name) == ([tracker], "my-run-0-outcome")
    assert run_name(place) == "my-run-0-outcome"
    assert told(tmp_path).report_to == []


def test_a_package_that_is_missing_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name in ("vllm", "trackio") else object())
    for tree, package in (
        ({"run": {"report_to": ["wandb", "trackio"]}}, "trackio must be installed with run.report_to 'trackio'"),
        ({"adversarial": {"vllm": {"mode": "server"}}}, "vllm must be installed with adversarial.vllm.mode"),
    ):
        with pytest.raises(ConfigError, match=package):
            train._check_installed(resolve(tree, where="run.toml"))
    train._check_installed(resolve({"run": {"report_to": ["wandb"]}}, where="run.toml"))
