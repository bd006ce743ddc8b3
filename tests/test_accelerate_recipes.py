"""The accelerate configurations that ship, read by accelerate itself, down to what its launcher makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

FILES = sorted((Path(__file__).parents[1] / "recipes" / "accelerate").glob("*.yaml"))
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "deepspeed-zero2": DistributedType.DEEPSPEED,
    "deepspeed-zero3": DistributedType.DEEPSPEED,
    "fsdp2": DistributedType.FSDP,
    "multi-node": DistributedType.MULTI_GPU,
    "multi-node-deepspeed-zero3": DistributedType.DEEPSPEED,
    "multi-node-fsdp2": DistributedType.FSDP,
}


def environment(file: Path) -> dict[str, str]:
    """What `accelerate launch --config_file FILE -m traceward train RUN.toml` sets for its processes."""
    command = ["--config_file", str(file), "-m", "traceward", "train", "RUN.toml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert (arguments.training_script, arguments.training_script_args) == ("traceward", ["train", "RUN.toml"])
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        return dict(prepare_deepspeed_cmd_env(arguments)[1])
    return dict(prepare_multi_gpu_env(arguments))


def test_every_file_is_known() -> None:
    assert {file.stem for file in FILES} == set(KINDS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it(file: Path) -> None:
    found = load_config_from_file(str(file))  # refuses keys that it does not know
    assert isinstance(found, ClusterConfig)
    assert found.distributed_type == KINDS[file.stem]
    assert found.num_processes == 8 * found.num_machines
    assert found.mixed_precision == "bf16"
    assert environment(file)["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize("stem", ["fsdp2", "multi-node-fsdp2"])
def test_fsdp_is_its_second_version_and_loads_whole_models_first(monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    (file,) = (file for file in FILES if file.stem == stem)
    for name, value in environment(file).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize(
    ("stem", "stage"), [("deepspeed-zero2", "2"), ("deepspeed-zero3", "3"), ("multi-node-deepspeed-zero3", "3")]
)
def test_deepspeed_shards_what_every_process_has_loaded(stem: str, stage: str) -> None:
    (file,) = (file for file in FILES if file.stem == stem)
    found = environment(file)
    assert found["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert found["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
    assert found["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "false"
