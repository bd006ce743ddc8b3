"""The standing control of the discriminator's batches: what can be told from a trace's form alone?

Positives and negatives go through the same tokenisation, ending, template and truncation (method, "Symmetry"). Where
a classifier that sees only the form of a trace tells them apart, the discriminator may have learned that and nothing
else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from traceward.data.formats import EncodedTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "Answer:")
_FOLDS = 5
_REMEMBERED = 512  # traces: eight updates of the default batch


def form_of(trace: EncodedTrace, tokenizer: PreTrainedTokenizerBase) -> tuple[float, ...]:
    """Length in tokens, whether it ends with end-of-sequence, how many tags, whether its text ends in a line break."""
    ids = trace.completion_ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return (
        float(len(ids)),
        float(ids[-1] == tokenizer.eos_token_id),
        float(sum(text.count(tag) for tag in _TAGS)),
        float(text.endswith("\n")),
    )


def held_out_scores(
    features: ArrayLike, labels: Sequence[bool], questions: Sequence[str]
) -> NDArray[np.float64] | None:
    """(N,) decision values of a logistic regression on standardised `features` (N, F), each trace judged by a fit
    that saw no trace of its question. None where a class has fewer than two questions, or a fit would lack a class."""
    values, truth = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=bool)
    asked = np.asarray(questions)
    if min(len(set(asked[truth])), len(set(asked[~truth]))) < 2:
        return None
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    scores = np.zeros(len(values))
    for rest, held in GroupKFold(min(_FOLDS, len(set(questions)))).split(values, truth, asked):
        if truth[rest].all() or not truth[rest].any():
            return None
        scores[held] = LogisticRegression().fit(values[rest], truth[rest]).decision_function(values[held])
    return scores


class FormControl:
    """Form and label of the last traces that the discriminator was shown."""

    def __init__(self) -> None:
        self._seen: deque[tuple[tuple[float, ...], int, str]] = deque(maxlen=_REMEMBERED)

    def see(self, traces: Sequence[EncodedTrace], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a batch; label 1 = expert."""
        self._seen.extend((form_of(t, tokenizer), label, t.key) for t, label in zip(traces, labels, strict=True))

    def auroc(self) -> float | None:
        """AUROC of form against label, cross-validated over questions; None with too few of them."""
        if not self._seen:
            return None
        features, labels, questions = zip(*self._seen, strict=True)
        scores = held_out_scores(features, [label == 1 for label in labels], questions)
        return None if scores is None else float(roc_auc_score(labels, scores))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seen": [list(row) for row in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._seen.clear()
        self._seen.extend((tuple(form), label, key) for form, label, key in state["seen"])
