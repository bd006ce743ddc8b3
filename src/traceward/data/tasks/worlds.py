"""All worlds by name."""

from __future__ import annotations

from collections.abc import Mapping

from traceward.data.tasks import (
    arithmetic,
    arithmetic_check,
    sorting,
    sorting_check,
    stories,
    swaps,
    swaps_check,
)
from traceward.data.tasks.world import World

WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        stories.world(),
        World("swaps", swaps.expert, swaps.student, swaps_check.check, exercises={"practice": swaps.practice}),
        World(
            "arithmetic",
            arithmetic.expert,
            arithmetic.student,
            arithmetic_check.check,
            exercises={
                "copies": arithmetic.copies,
                "values": arithmetic.values,
                "practice": arithmetic.practice,
                "lines": arithmetic.lines,
            },
        ),
        World(
            "sorting", sorting.expert, sorting.student, sorting_check.check, exercises={"practice": sorting.practice}
        ),
    )
}
