"""Corruptions of clinical reasoning, on sentences written for these tests."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traceward.data.corruptions import PACKS, REGISTRY, Corrupted
from traceward.data.corruptions.clinical_words import DIRECTIONS, DRUGS, GUIDELINES, SEXES, UNITS, VALUED
from traceward.data.formats import Format, completion_text
from traceward.data.tasks.stories import demonstration
from traceward.records import Problem, Trace

EACH_KIND = pytest.mark.parametrize("kind", PACKS["clinical"])
SEEDS = st.integers(0, 10**6)
PROBLEM = Problem("ward", "What is the matter with this made-up patient?")
SENTENCES = {
    "direction-flip": ("It is {} here, as it seems.", (*DIRECTIONS, "hypokalemia", "left ventricle", "upper lobe")),
    "clinical-value": ("The patient got 40 {} of it.", VALUED),
    "unit-change": ("After 75 {} it was measured again.", UNITS),
    "demographic-change": ("A {} comes to the ward.", ("52-year-old patient", *SEXES)),
    "drug-swap": ("We give {} at once.", DRUGS),
    "guideline-flip": ("In this case it {} here.", GUIDELINES),
}  # fmt: skip


@st.composite
def traces(draw: st.DrawFn, kind: str) -> Trace:
    """A few clinical sentences, one of them of the kind's domain."""
    frame, words = SENTENCES[kind]
    steps = ["The case is an unusual one.", frame.format(draw(st.sampled_from(list(words))))]
    other, others = SENTENCES[draw(st.sampled_from(sorted(SENTENCES)))]
    steps.insert(draw(st.integers(0, 2)), other.format(draw(st.sampled_from(list(others)))))
    return Trace(tuple(steps), "B")


def made(kind: str, trace: Trace, seed: int) -> Corrupted:
    found = REGISTRY[kind](PROBLEM, trace, random.Random(seed))
    assume(found is not None)
    assert found is not None
    return found


@EACH_KIND
@given(data=st.data(), seed=SEEDS)
def test_one_step_changes_within_the_span_and_is_reported(kind: str, data: st.DataObject, seed: int) -> None:
    trace = data.draw(traces(kind))
    wrong = made(kind, trace, seed)
    old, new = (completion_text(one, Format.PLAIN) for one in (trace, wrong.trace))
    start, end = wrong.span
    assert wrong.kind == kind
    assert old != new
    assert old[:start] == new[:start]
    assert old.endswith(new[end:])
    pairs = enumerate(zip(trace.steps, wrong.trace.steps, strict=True))
    assert [at for at, (one, two) in pairs if one != two] == [wrong.first_error]
    assert wrong.trace.answer == trace.answer
    assert wrong == REGISTRY[kind](PROBLEM, trace, random.Random(seed))


@EACH_KIND
def test_every_word_of_its_list_is_changed(kind: str) -> None:
    frame, words = SENTENCES[kind]
    for word in words:
        found = REGISTRY[kind](PROBLEM, Trace((frame.format(word),), "B"), random.Random(0))
        assert found is not None, word
        assert found.trace.steps[0] != frame.format(word)


@EACH_KIND
def test_no_article_is_left_wrong(kind: str) -> None:
    for word in SENTENCES[kind][1]:
        article = "an" if word[0] in "aeiou" else "a"
        step = f"It is {article} {word} here, where 5 {word} are {article} {word}."
        for seed in range(6):
            found = REGISTRY[kind](PROBLEM, Trace((step,)), random.Random(seed))
            if found is not None and not re.search(r"\ban? u", found.trace.steps[0]):
                assert not re.search(r"\b(?:a [aeio]|an (?![aeiou8]|hour|1[18]))", found.trace.steps[0]), (
                    found.trace.steps
                )


@EACH_KIND
@given(seed=SEEDS)
def test_stories_have_nothing_clinical(kind: str, seed: int) -> None:
    item = demonstration(random.Random(seed))
    assert REGISTRY[kind](item.problem, item.trace, random.Random(seed)) is None


def steps_made(kind: str, step: str) -> set[str]:
    found = [REGISTRY[kind](PROBLEM, Trace((step,)), random.Random(seed)) for seed in range(60)]
    return {wrong.trace.steps[0] for wrong in found if wrong}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("Renin increases sodium.", {"Renin decreases sodium."}),
        ("An increase is seen.", {"A decrease is seen."}),
        ("It neither increases nor decreases.", set()),
        ("Hyperkalemia is likely.", {"Hypokalemia is likely."}),
        ("It is hypokalemia, not hyperkalemia.", set()),
        ("The hypothesis is bold.", set()),
        ("The left ventricle fails.", {"The right ventricle fails."}),
        ("She left the ward, and was right to.", set()),
        ("Pain of the lower back.", {"Pain of the upper back."}),
        ("A lower dose was given.", {"A higher dose was given."}),
        ("A gram-positive coccus.", {"A gram-negative coccus."}),
        ("An acute attack.", {"A chronic attack."}),
    ],
)
def test_directions_by_hand(step: str, expected: set[str]) -> None:
    assert steps_made("direction-flip", step) == expected


def test_values_and_units_by_hand() -> None:
    assert "Give 6 mg of it." in steps_made("clinical-value", "Give 5 mg of it.")
    assert all("Room 5" in step for step in steps_made("clinical-value", "Room 5: give 40 mg of it."))
    assert steps_made("clinical-value", "There are 5 beds.") == set()
    assert steps_made("unit-change", "Give 5 mg of it.") == {"Give 5 g of it.", "Give 5 mcg of it."}
    assert steps_made("unit-change", "It is 140 mEq/L.") == {"It is 140 mg/dL."}
    assert steps_made("unit-change", "There are 5 games.") == set()


def test_the_patient_by_hand() -> None:
    assert steps_made("demographic-change", "An 18-year-old patient.") == set()  # no such age takes "an"
    assert steps_made("demographic-change", "This 50-year-old patient.") == {
        f"This {age}-year-old patient." for age in (5, 35, 65, 95)
    }
    assert steps_made("demographic-change", "The man is ill.") == {"The woman is ill."}
    assert steps_made("demographic-change", "The man and his wife are ill.") == set()
    assert steps_made("demographic-change", "The woman is pregnant.") == set()
    assert steps_made("demographic-change", "The 9 year old boy is ill.") == {"The 9 year old girl is ill."}


def test_a_drug_becomes_one_of_another_class() -> None:
    found = steps_made("drug-swap", "Metoprolol slows the heart.")
    assert len(found) > 20
    for step in found:
        drug = step.split()[0]
        assert drug[0].isupper()
        assert DRUGS[drug.lower()] != DRUGS["metoprolol"]


def test_guidelines_by_hand() -> None:
    assert steps_made("guideline-flip", "It is contraindicated here.") == {"It is indicated here."}
    assert steps_made("guideline-flip", "It should be given.") == {"It should not be given."}
    assert steps_made("guideline-flip", "It should not be given.") == {"It should be given."}
    assert steps_made("guideline-flip", "Discontinue it, and continue to look.") == set()
    assert steps_made("guideline-flip", "Pulses continue to rise.") == set()
