"""An exported directory: there whole or not at all, and replaced only where it is an earlier export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traceward.data.jsonl import is_unwritable
from traceward.errors import RunError

RECORD = "traceward.json"  # what the export is; also the mark of one
REFERENCE = "reference"  # p_ref of a log-ratio
# What opens as a model, an adapter or a tokenizer. Trainers leave other things beside those.
MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template*", "additional_chat_templates"),
)


def refuse_target(out: Path, source: Path, *, overwrite: bool) -> None:
    """Raises RunError where an export must not go, before the work."""
    here, there = out.resolve(), source.resolve()
    if here == there or there in here.parents or here in there.parents:
        raise RunError(f"out must lie apart from what is exported: got {out} for {source}; choose another place")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / RECORD).is_file():
        raise RunError(f"out must be new, empty or an earlier export: got {out} with other files; choose another place")
    if not overwrite:
        raise RunError(f"out must be new: got {out}, which holds an export; choose another place, or add --overwrite")


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `out` once it is whole. Raises RunError when the disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent) as room:
            whole = Path(room) / out.name
            whole.mkdir()
            yield whole
            earlier = Path(room) / f"{out.name}.old"
            if out.exists():
                out.replace(earlier)
            try:
                whole.replace(out)
            except OSError:
                if earlier.exists():
                    earlier.replace(out)
                raise
    except Exception as error:
        if isinstance(error, OSError) or is_unwritable(error):
            raise RunError(
                f"export must be written whole: got '{error}' at {out}; free space or choose another place"
            ) from error
        raise


def copy_model(source: Path, target: Path) -> None:
    """The files that make a model, as they are."""
    for path in sorted({path for pattern in MODEL_FILES for path in source.glob(pattern)}):
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, target / path.name)
