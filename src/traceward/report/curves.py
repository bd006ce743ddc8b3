"""Metrics of a run as small figures, a panel per field: the health of the training, and everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traceward.report.figures import Kind, Series, line_figure, plain_text, thin
from traceward.report.tables import POLICY, Method, Section
from traceward.report.times import PREFIX

Rows = Sequence[Mapping[str, object]]
Panels = list[tuple[str, str]]
"""Title and SVG of each."""

# Title, fields that share one axis. A field named nowhere here gets a panel of its own among the learning curves.
_HEALTH: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Discriminator accuracy", ("accuracy",)),
    ("Discriminator updates a step", ("updates",)),
    ("Reward", ("reward",)),
    ("Completion length, tokens", ("completion_length",)),
    ("KL to the start policy, nats per token", ("kl",)),
    ("Entropy, nats per token", ("entropy",)),
    ("AUROC of a trace's form alone", ("form_auroc",)),
    ("Correlation of reward and length", ("reward_length_correlation",)),
)
_LEARNING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss",)),
    ("Held-out AUROC", ("held_out_auroc",)),
    ("Accuracy", ("accuracy",)),
    ("Logit of expert and rollout", ("logit_expert", "logit_rollout")),
    ("AUROC of a trace's form alone", ("form_auroc",)),
    ("Agreement with the pseudo-answer", ("agreement",)),
)
_OWN_STAGES = {"sft": "Fine-tuning on the demonstrations", "warm-up": "Warm-up of the reward"}
_METHODS = {method.key: method for method in POLICY}
_POLICIES = "Training the policy"
_NO_FIELDS = frozenset({"step", "seconds", "stage", "alarm", "message"})
_PANELS_SHOWN = 12


def health_curves(rows: Rows, adversarial: Section) -> Panels:
    """What the guards watch, of every stage that trains a policy; the band of the recipe's section `adversarial` is
    drawn behind the discriminator's accuracy."""
    trained = {title: stages for title, stages in _groups(rows).items() if title == _POLICIES}
    low, high = adversarial.share("accuracy_low"), adversarial.share("accuracy_high")
    band = None if low is None or high is None or (low, high) == (0, 1) else (low, high)
    return _panels(trained.get(_POLICIES, {}), _HEALTH, band=band)


def stage_curves(rows: Rows) -> list[tuple[str, Panels]]:
    """Rows of metrics.jsonl -> (title of a group, its panels), without those of `health_curves`.

    Fine-tuning, warm-up and unknown stages stand alone; stages that train a policy share their panels.
    """
    found = []
    for title, stages in _groups(rows).items():
        shown = {name for _, names in _HEALTH for name in names} if title == _POLICIES else set()
        first = [(name, fields) for name, fields in _LEARNING if not shown & {*fields}]
        known = shown | _NO_FIELDS | {field for _, fields in first for field in fields}
        logged = dict.fromkeys(name for rows in stages.values() for row in rows for name in row if name not in known)
        others = [(name.replace("_", " "), (name,)) for name in logged if not name.startswith(PREFIX)]
        found.append((title, _panels(stages, (*first, *others))))
    return found


def _groups(rows: Rows) -> dict[str, dict[str, list[Mapping[str, object]]]]:
    """Title -> stage -> its rows."""
    groups: dict[str, dict[str, list[Mapping[str, object]]]] = {}
    for row in rows:
        stage = str(row.get("stage") or "run")
        own = stage in _OWN_STAGES or stage not in _METHODS
        title = _OWN_STAGES.get(stage, stage.replace("_", " ")) if own else _POLICIES
        groups.setdefault(title, {}).setdefault(stage, []).append(row)
    return groups


def _panels(
    stages: Mapping[str, Rows],
    wanted: Sequence[tuple[str, tuple[str, ...]]],
    *,
    band: tuple[float, float] | None = None,
) -> Panels:
    """band: drawn behind `accuracy`."""
    panels: Panels = []
    for title, names in wanted:
        found = [(stage, name, *_points(rows, name)) for stage, rows in stages.items() for name in names]
        found = [one for one in found if one[2]]
        if not found or len(panels) == _PANELS_SHOWN:
            continue
        sharing = len({stage for stage, *_ in found}) > 1
        series = []
        for stage, name, xs, ys in found:
            method = _METHODS.get(stage, Method(stage, "", Kind.OURS))
            words = [method.label] * (sharing or (len(stages) > 1 and len(found) == 1))
            words += [name.removeprefix("logit_")] if len(found) > 1 and len(names) > 1 else []
            kind = Kind.RIVAL if name == "logit_expert" else method.kind
            series.append(Series(" ".join(words) or plain_text(ys[-1]), xs, ys, kind))
        last = ", ".join(f"{one.label} {plain_text(one.ys[-1] or 0)}" for one in series)
        svg = line_figure(
            series,
            alt=f"{title} against steps, last values: {last}",
            x_label="step",
            y_text=plain_text,
            band=band if "accuracy" in names else None,
            size=(280, 160),
            label_width=104 if len(stages) > 1 else 44,
        )
        panels.append((title, svg))
    return panels


def _points(rows: Sequence[Mapping[str, object]], name: str) -> tuple[list[float], list[float]]:
    """The steps at which `name` was logged, and its values; a row without a step stands at its own place."""
    xs, ys = [], []
    for place, row in enumerate(rows):
        value, step = _number(row.get(name)), _number(row.get("step"))
        if value is not None:
            xs.append(float(place) if step is None else step)
            ys.append(value)
    return thin(xs, ys, limit=60)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
