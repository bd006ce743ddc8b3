"""traceward export: what is written, what is refused, and that an export is there whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from traceward.cli import run
from traceward.errors import ConfigError, RunError, TracewardError
from traceward.records import Granularity, Head, ModelForm, UnitSpec
from traceward.workflows import export
from traceward.workflows.export import export_model

Making = Any  # conftest's
STEPS = UnitSpec()


@pytest.fixture(scope="module")
def ratio(making: Making) -> Path:
    place: Path = making.reward("plain-ratio", Head.LOG_RATIO, STEPS)[1]
    return place


@pytest.fixture(scope="module")
def adapter(making: Making) -> Path:
    place: Path = making.reward("sparse-adapter", Head.SCALAR, UnitSpec(Granularity.SPARSE), adapter=True)[1]
    return place


def test_the_verb_writes_a_copy_and_says_so(ratio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, numbers = tmp_path / "out", tmp_path / "found.json"
    assert run(["export", str(ratio), "--out", str(out), "--json", str(numbers)]) == 0
    shown = capsys.readouterr().out
    assert "causal-lm" in shown
    assert f"card: {out / 'README.md'}" in shown
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["kind"], found["form"], found["reference"]) == ("reward", "causal-lm", "reference")
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(found["files"]) == on_disk
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (out / name).read_bytes() == (ratio / "model" / name).read_bytes()
    assert (out / "reference/model.safetensors").read_bytes() == (ratio / "reference/model.safetensors").read_bytes()
    record = json.loads((out / "traceward.json").read_text(encoding="utf-8"))
    assert (record["card"]["reference_share"], record["card"]["sign"]) == (0.75, "high = expert")


def test_an_adapter_stays_one_unless_merged(adapter: Path, tmp_path: Path) -> None:
    left = export_model(adapter, out=tmp_path / "left")
    assert left.contents.form is ModelForm.TOKEN
    assert left.contents.adapter_base == json.loads((adapter / "card.json").read_text(encoding="utf-8"))["base"]["path"]
    assert "model.safetensors" not in left.files
    merged = export_model(adapter, out=tmp_path / "merged", merge=True)
    assert (merged.contents.form, merged.contents.adapter_base) == (ModelForm.SEQUENCE, None)
    assert "adapter_config.json" not in merged.files


def test_an_adapter_beside_four_bits_is_merged_into_whole_weights(adapter: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(adapter, source)
    card = json.loads((source / "card.json").read_text(encoding="utf-8"))
    card["base"]["load_in_4bit"] = True
    (source / "card.json").write_text(json.dumps(card), encoding="utf-8")
    export_model(source, out=tmp_path / "four", merge=True)
    export_model(adapter, out=tmp_path / "plain", merge=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("four", "plain")]
    assert weights[0] == weights[1]
    sentence = "beside weights in 4 bit"
    said = [sentence in (tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("four", "plain")]
    assert said == [True, False]


@pytest.mark.parametrize(
    ("which", "options", "message"),
    [
        ("ratio", {"form": ModelForm.TOKEN}, "form must be 'causal-lm' for a log-ratio"),
        ("ratio", {"merge": True}, "merge must be asked of an adapter"),
        ("adapter", {"form": ModelForm.CAUSAL_LM}, "form must be a classifier"),
        ("adapter", {"form": ModelForm.SEQUENCE}, "add --merge"),
        ("steps", {"form": ModelForm.SEQUENCE}, "which reads one token"),
        ("policy", {"form": ModelForm.TOKEN}, "form must be left out for a policy"),
        ("policy", {"merge": True}, "merge must be asked of an adapter"),
        ("inside", {}, "got a classifier in"),
        ("nowhere", {}, "source must be the directory of a reward or a policy"),
    ],
)
def test_what_no_plain_model_can_be_is_refused(
    making: Making, ratio: Path, adapter: Path, tmp_path: Path, *, which: str, options: dict[str, Any], message: str
) -> None:
    sources = {"ratio": ratio, "adapter": adapter, "inside": adapter / "model", "nowhere": tmp_path / "nowhere"}
    if which == "steps":
        sources["steps"] = making.reward("steps-scalar", Head.SCALAR, STEPS)[1]
    if which == "policy":
        sources["policy"] = making.policy("some-policy")
    with pytest.raises(ConfigError, match=message) as caught:
        export_model(sources[which], out=tmp_path / "out", **options)
    assert "; " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_asked_for_one_of_its_models(tmp_path: Path) -> None:
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "reward").mkdir()
    (tmp_path / "policies" / "sft").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"choose one of .*/reward, .*/policies/sft"):
        export_model(tmp_path, out=tmp_path.with_name("out"))


def test_only_an_earlier_export_is_replaced_and_only_on_demand(ratio: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(ratio, out=out)
    with pytest.raises(RunError, match="add --overwrite"):
        export_model(adapter, out=out)
    export_model(adapter, out=out, overwrite=True)
    assert not (out / "reference").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RunError, match="must be new, empty or an earlier export"):
        export_model(ratio, out=tmp_path / "thesis", overwrite=True)
    for place in (ratio, ratio / "out", ratio.parent):
        with pytest.raises(RunError, match="must lie apart"):
            export_model(ratio, out=place, overwrite=True)


def test_what_fails_leaves_the_earlier_export(ratio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export_model(ratio, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "model_card", full)
    with pytest.raises(TracewardError, match="must be written whole"):
        export_model(ratio, out=out, overwrite=True)
    with pytest.raises(TracewardError, match="must be written whole"):
        export_model(ratio, out=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
