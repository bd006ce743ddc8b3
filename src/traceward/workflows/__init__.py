"""Whole tasks: each function reads files, runs models and returns what it found; nothing here prints a table."""

from enum import StrEnum


class TooLong(StrEnum):
    """What to do with a trace that is longer than a model's context. Here, where the command line finds it at once."""

    ERROR = "error"
    SKIP = "skip"


class Precision(StrEnum):
    """The floating-point numbers that a reward is run in; torch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DataSet(StrEnum):
    """What `traceward data` reads."""

    GSM8K = "gsm8k"
    MMLU_PRO = "mmlu-pro"
    MEDREASON = "medreason"
    MATH = "math"
    JSONL = "jsonl"  # a file of one's own, in one of the shapes of `traceward.data.shapes`
