from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from traceward.data.jsonl import Faults
from traceward.data.sources import Sources, find_sources
from traceward.errors import ConfigError, DataError

ROW = {"question": "Why?", "answer": "So."}


def named(found: Sources) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for source in found.found:
        splits.setdefault(source.split, []).append(Path(source.path).name)
    return splits


def rows(found: Sources) -> list[tuple[int, dict[str, Any]]]:
    return [row for source in found.found for row in source.read(Faults(source.path))]


def make(directory: Path, *names: str) -> Path:
    for name in names:
        place = directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (json.dumps(ROW) + "\n").encode()
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW]), place)
        else:
            place.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return directory


def test_a_file_is_one_source_without_a_split(tmp_path: Path) -> None:
    for name in ("own.jsonl", "own.jsonl.gz", "own.parquet"):
        found = find_sources(str(make(tmp_path, name) / name))
        assert named(found) == {"": [name]}
        assert rows(found)[0] == (1, ROW)
        assert len(found.found[0].fingerprint or "") == 64


def test_a_directory_has_splits_and_other_files_are_named(tmp_path: Path) -> None:
    names = ("demonstrations_train.jsonl.gz", "dev.jsonl", "test.jsonl", "questions.jsonl", "README.md", "traces.jsonl")
    found = find_sources(str(make(tmp_path, *names)))
    assert named(found) == {
        "train": ["demonstrations_train.jsonl.gz"],
        "validation": ["dev.jsonl"],
        "test": ["test.jsonl"],
        "questions": ["questions.jsonl"],
    }
    assert found.left_alone == ("README.md", "traces.jsonl")


def test_numbered_parts_are_one_split(tmp_path: Path) -> None:
    found = find_sources(str(make(tmp_path, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet")))
    assert named(found) == {"train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]}
    assert rows(found) == [(1, ROW), (2, ROW)] * 2


@pytest.mark.parametrize("two", [("train.jsonl", "train.jsonl.gz"), ("val.jsonl", "dev.jsonl")])
def test_two_files_of_one_split_are_refused(tmp_path: Path, two: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"must hold one file of (train|validation): got .*; remove one"):
        find_sources(str(make(tmp_path, *two)))


@pytest.mark.parametrize("names", [(), ("questions.jsonl",), ("README.md", "data.csv")])
def test_a_directory_without_splits_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"must hold train\.jsonl, test\.jsonl or so"):
        find_sources(str(make(tmp_path, *names)))


def test_a_missing_path_and_torn_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source must be a file, a directory or hub:NAME: got '.*nowhere'"):
        find_sources(str(tmp_path / "nowhere"))
    torn = make(tmp_path, "own.parquet") / "own.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"own\.parquet must be whole parquet: got .*; fetch the file again"):
        rows(find_sources(str(torn)))
    empty = tmp_path / "none.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": pyarrow.array([], pyarrow.string())}), empty)
    with pytest.raises(DataError, match="must hold at least one row"):
        rows(find_sources(str(empty)))


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub with one data set of two configurations; what was asked of it."""
    asked: list[tuple[Any, ...]] = []
    table = datasets.Dataset.from_list([ROW, {"question": "How?", "answer": None}])

    def load(name: str, config: str, revision: str | None) -> datasets.DatasetDict:
        asked.append((name, config, revision))
        return datasets.DatasetDict({"train": table, "test": table, "extra": table})

    def configs(name: str, revision: str | None) -> list[str]:
        return ["main", "socratic"] if name == "somebody/sums" else ["default"]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", configs)
    return asked


def test_the_hub_is_asked_for_a_name_and_a_revision(hub: list[tuple[Any, ...]]) -> None:
    found = find_sources("hub:somebody/sums@abc", ("main",))
    assert hub == [("somebody/sums", "main", "abc")]
    assert [(source.path, source.split) for source in found.found] == [
        ("hub:somebody/sums/train", "train"),
        ("hub:somebody/sums/test", "test"),
    ]
    assert found.left_alone == ("main/extra",)
    assert rows(found)[:2] == [(1, ROW), (2, {"question": "How?", "answer": None})]
    assert found.found[0].fingerprint is None


def test_several_configurations_are_read_one_after_the_other(hub: list[tuple[Any, ...]]) -> None:
    found = find_sources("hub:somebody/sums", ("main", "socratic"))
    assert [config for _, config, _ in hub] == ["main", "socratic"]
    assert [line for line, _ in find_sources("hub:somebody/sums", ("main", "socratic")).found[0].read(Faults("x"))] == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert len(rows(found)) == 8


def test_a_data_set_with_one_configuration_needs_none(hub: list[tuple[Any, ...]]) -> None:
    assert len(find_sources("hub:somebody/other", ("main",)).found) == 2


def test_what_the_hub_lacks_is_told(hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must have a configuration algebra: got main, socratic"):
        find_sources("hub:somebody/sums", ("algebra",))
    with pytest.raises(ConfigError, match="write hub:OWNER/NAME"):
        find_sources("hub:")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"extra": []})
    with pytest.raises(DataError, match="must have a split train, validation or test: got default/extra"):
        find_sources("hub:somebody/other")


def test_a_hub_that_cannot_be_reached_is_one_clear_error() -> None:
    with pytest.raises(DataError) as caught:
        find_sources("hub:openai/gsm8k", ("main",))
    message = str(caught.value)
    assert message.startswith("hub:openai/gsm8k must be a data set that can be read from here: got '")
    assert message.endswith("'; check name and network, or download it elsewhere and give the directory")
    assert "\n" not in message
