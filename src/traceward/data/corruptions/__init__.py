"""A registry of labelled wrong edits of a right trace: hard negatives whose first wrong step is known.

Every kind gives a Corrupted, or None where it does not apply; never an unchanged text, and never a formatting trace:
numbers keep their style, and all text outside the span stays as it was.

A recipe names packs (`critic.corruption_packs`): general, arithmetic, structure, multiple-choice, clinical. A kind may
be in several.

Held-out kinds: `operator-flip` resembles the misconception "reads fewer as more" of the built-in world ("12 + 5" for
"5 fewer than 12"). An experiment on `stories` that claims to find unseen errors holds it out:
`corrupt(…, exclude=["operator-flip"])`.

The checker of `stories` agrees with `first_error` for every kind but `step-delete` and `steps-swap`: it judges
each step against the story alone, so a missing or a late premise is no error to it.
"""

# New files come last: what is drawn follows the order in which kinds are registered.
from traceward.data.corruptions import prose, structure, choices, clinical  # isort: skip
from traceward.data.corruptions.registry import PACKS, REGISTRY, Corrupted, Corruption, corrupt, corruption, kinds_of

__all__ = [
    "PACKS",
    "REGISTRY",
    "Corrupted",
    "Corruption",
    "choices",
    "clinical",
    "corrupt",
    "corruption",
    "kinds_of",
    "prose",
    "structure",
]
