from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from traceward.data.segmentation import Segmenter, closed_steps, split_steps, step_ends, step_spans, unit_index
from traceward.records import Granularity, UnitSpec

STEPS = UnitSpec(Granularity.INTERVAL)
SPECS = [UnitSpec(Granularity.SPARSE), UnitSpec(Granularity.DENSE), STEPS, *(UnitSpec(every=n) for n in (1, 2, 5, 15))]
LINES = [
    "Ben has 7 + 5 = 12 apples.\nTogether they have 3 * 4 = 12 apples.\nAnswer: 12",
    "First, 3.5 is more than 2. Then we add $1.20 each! Is that all? Yes. No",
    "<think>Ann has 2.\n\n  Café: 9 °C.\n</think>\n<answer>4</answer>",
]

# Texts in which marks, half-marks, tags, odd white space and characters of two to four bytes are common.
PARTS = [
    *(
        "Ben",
        " has",
        " 12",
        "3.5",
        " apples",
        "e.g.",
        "a",
        "Z",
        "7",
        "(",
        '"',
        "'",
        "$",
        "\\",
        "é",
        "数",
        "𝄞",
        "\ufffd",
    ),
    *(".", "!", "?", ". ", "? ", '." ', "\n", "\n\n", "\r\n", " \n ", " ", "  ", "\t", "\u00a0", "\u2003", "\u3000"),
    *("<think>", "</think>", "<answer>", "</answer>", "Answer: 4", "\u2028", "\x85"),
]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=3)), max_size=25).map("".join)


def byte_level(size: int = 400) -> PreTrainedTokenizerFast:
    """The GPT-2 family: bytes as letters, the space inside the word that follows it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def llama_like() -> PreTrainedTokenizerFast:
    """The SentencePiece family: "▁" for a space, one in front, bytes as <0x0A>, and a decoder that strips the front."""
    specials = ["<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    # Line breaks stay out of the training text: as in Llama, they are bytes.
    trained.train_from_iterator(
        [line for text in LINES for line in text.split("\n")],
        trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False),
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    trained.decoder = decoders.Sequence(steps)
    return _without_special_bytes(trained)


def _without_special_bytes(trained: Tokenizer) -> PreTrainedTokenizerFast:
    """Byte tokens are ordinary entries of the vocabulary in real files, so the trainer's marks on them are dropped."""
    import json

    layout = json.loads(trained.to_str())
    layout["added_tokens"] = [token for token in layout["added_tokens"] if token["content"] in ("<unk>", "<eos>")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(layout)), eos_token="<eos>", unk_token="<unk>"
    )


def unigram() -> PreTrainedTokenizerFast:
    """The T5 family: a unigram model over Metaspace pieces, the line break one of them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<eos>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


MAKES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "bytes-only": lambda: byte_level(257),
    "llama-like": llama_like,
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=["shipped", *MAKES])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return tokenizer if request.param == "shipped" else MAKES[request.param]()


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# Text


@given(text=st.one_of(texts, st.text()))
def test_spans_cover_the_text_and_none_is_blank(text: str) -> None:
    spans = step_spans(text)
    assert "".join(text[start:end] for start, end in spans) == (text if spans else "")
    assert all(start < end for start, end in spans)
    assert all(step.strip() for step in split_steps(text))
    bare = text.replace("<think>", "").replace("</think>", "")
    assert bool(spans) is bool(bare.strip())


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        (" \n\t\n", []),
        ("one", ["one"]),
        ("one\ntwo\n", ["one", "two"]),
        ("\n\none\n  \n\r\n  two", ["one", "two"]),
        # With a line break anywhere in the body, lines are the steps, and sentences are not looked for.
        ("A is. B is.\nC is.", ["A is. B is.", "C is."]),
        # A line break at the edge is not in the body.
        ("\nA is. B is.\n", ["A is.", "B is."]),
        ("It is 3.5 now. Then 4. So 5.", ["It is 3.5 now.", "Then 4.", "So 5."]),
        ("At $1.20 each it is e.g. the best. $3 remain! (Or two?) \\[x\\]", None),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        # No list of abbreviations is complete, so a title before a name ends a sentence: put such text on lines.
        ("Dr. Smith has 3.", ["Dr.", "Smith has 3."]),
        # Ellipses, versions and missing spaces hold no end.
        ("wait... so v2.0.1 is.fine", ["wait... so v2.0.1 is.fine"]),
    ],
)
def test_steps_of_texts_worked_by_hand(text: str, steps: list[str] | None) -> None:
    expected = ["At $1.20 each it is e.g. the best.", "$3 remain!", "(Or two?)", "\\[x\\]"] if steps is None else steps
    assert split_steps(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<think>Ann has 2. So\n3 is it.</think>\n<answer>3</answer>",
        "<think>\nAnn has 2. So\n3 is it.\n</think>\n\n<answer>3</answer>",
        "\n<think>\n\nAnn has 2. So\n\n3 is it.</think><answer>\n3\n</answer>\n",
        "Ann has 2. So\n3 is it.\n</think>\n<answer>3</answer> ok.\nBye",
    ],
)
def test_tags_form_no_steps_of_their_own(text: str) -> None:
    steps = split_steps(text)
    assert steps[:-1] == ["Ann has 2. So", "3 is it."]
    assert steps[-1].startswith("<answer>")


def test_the_line_break_before_the_answer_does_not_hide_the_sentences_of_a_thought() -> None:
    assert split_steps("<think>One is. Two is.</think>\n<answer>2</answer>") == [
        "One is.",
        "Two is.",
        "<answer>2</answer>",
    ]


# Tokens


@given(text=texts)
def test_tokens_have_as_many_steps_as_their_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Holds for the shipped tokenizer, whose every mark is a token of its own. Elsewhere a token such as "\\n}\\n"
    may end two steps, and then ends one unit: a position has one reward."""
    ids = ids_of(tokenizer, text)
    ends = Segmenter(tokenizer).unit_ends(ids, STEPS)
    expected = max(1, len(step_spans(text))) if ids else 0  # tokens without a step, such as blanks, are one unit
    assert len(ends) == expected


@given(text=texts)
def test_each_unit_of_tokens_reads_as_its_step(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = ids_of(tokenizer, text)
    ends = Segmenter(tokenizer).unit_ends(ids, STEPS)
    units = [tokenizer.decode(ids[start:end]) for start, end in pairwise([0, *(end + 1 for end in ends)])]
    assert units == [text[start:end] for start, end in step_spans(text)] or not step_spans(text)


@given(text=texts)
def test_the_texts_of_tokens_join_to_the_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    joined = "".join(Segmenter(tokenizer).pieces(ids_of(tokenizer, text)))
    if "\ufffd" not in text:
        assert joined == text


@given(text=texts)
def test_units_of_every_size_end_in_order_and_with_the_last_token(
    any_tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    ids = [*ids_of(any_tokenizer, text), any_tokenizer.eos_token_id]
    for spec in SPECS:
        ends = Segmenter(any_tokenizer).unit_ends(ids, spec)
        assert all(earlier < later for earlier, later in pairwise(ends))
        assert ends[0] >= 0
        assert ends[-1] == len(ids) - 1
        assert [unit_index(ends).count(unit) for unit in range(len(ends))] == [
            later - earlier for earlier, later in pairwise([-1, *ends])
        ]


@given(ids=st.lists(st.integers(0, 399), min_size=1, max_size=40))
def test_ids_that_no_text_encodes_to_still_have_units(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    ends = Segmenter(tokenizer).unit_ends(ids, STEPS)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(ids) - 1


@pytest.mark.parametrize(
    "text", [*LINES, "Is it? Yes. No", "one\n    two\n\n\nthree", "数。学\n学 é. A\u00a0b.\u3000C"]
)
def test_every_make_of_tokenizer_finds_the_steps_of_the_text(any_tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = [*ids_of(any_tokenizer, text), any_tokenizer.eos_token_id]
    if any_tokenizer.unk_token_id is not None and any_tokenizer.unk_token_id in ids:
        pytest.skip("this vocabulary lacks letters of the text")
    ends = Segmenter(any_tokenizer).unit_ends(ids, STEPS)
    units = [
        any_tokenizer.decode(ids[start:end], skip_special_tokens=True).strip()
        for start, end in pairwise([0, *(end + 1 for end in ends)])
    ]
    assert units == [text[start:end].strip() for start, end in step_spans(text)]


def test_the_first_word_of_a_sentence_opens_its_unit() -> None:
    assert step_ends(["Yes", ".", " No", "."]) == [1, 3]
    assert step_ends(["Yes", ".", " No"]) == [1, 2]
    assert step_ends(["one", "\n", " ", " two"]) == [1, 3]


def test_a_token_with_two_marks_ends_one_unit() -> None:
    assert len(split_steps("a\n}\nb")) == 3
    assert step_ends(["a", "\n}\n", "b"]) == [1, 2]


def test_tokens_without_text_belong_to_the_last_step() -> None:
    assert step_ends(["one", "\n", "two", "", ""]) == [1, 4]
    assert step_ends(["one", "\n", ""]) == [2]
    assert step_ends(["", ""]) == [1]
    assert step_ends([]) == []


def test_a_character_spread_over_tokens_is_read_whole() -> None:
    tokenizer = byte_level(257)
    pieces = Segmenter(tokenizer).pieces(ids_of(tokenizer, "a—\u00a0𝄞"))
    assert pieces == ["a", "", "", "—", "", "\u00a0", "", "", "", "𝄞"]


def test_a_torn_character_and_a_replacement_sign_stay_one_piece_a_token() -> None:
    tokenizer = byte_level(257)
    torn = ids_of(tokenizer, "—")[:1]
    b, eos = ids_of(tokenizer, "b")[0], tokenizer.eos_token_id
    assert Segmenter(tokenizer).pieces([*torn, b, eos]) == ["\ufffd", "b", ""]
    assert Segmenter(tokenizer).pieces([*torn, *ids_of(tokenizer, "é")]) == ["\ufffd", "", "é"]


def test_the_end_of_sequence_token_moves_no_boundary_but_the_last(any_tokenizer: PreTrainedTokenizerBase) -> None:
    segmenter = Segmenter(any_tokenizer)
    ids = ids_of(any_tokenizer, LINES[0])
    without, with_it = (segmenter.unit_ends(row, STEPS) for row in (ids, [*ids, any_tokenizer.eos_token_id]))
    assert with_it[:-1] == without[:-1]
    assert with_it[-1] == without[-1] + 1 == len(ids)


# Texts that are still being written


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("", 0),
        ("\n \n", 0),
        ("one", 0),
        ("one\n", 1),
        ("one\n\n \n", 1),
        ("one\ntw", 1),
        ("\none\ntwo\n", 2),
        # A sentence may turn out to be part of a line.
        ("A is. B is. C", 0),
        ("A is. B is.\n", 1),
        ("<think>\nA is.\n</think>\n", 1),
        ("<think>A is.\nB is.</think>\n<answer>", 2),
        ("A is.</think><answer>3", 1),
        # What stands behind <answer> is one step.
        ("A is.\n<answer>\n3\n</answer>\n", 1),
        ("<answer>3</answer>\n", 0),
    ],
)
def test_closed_steps_worked_by_hand(text: str, closed: int) -> None:
    assert closed_steps(text) == closed


@given(text=texts, more=texts)
def test_nothing_that_comes_changes_a_closed_step(text: str, more: str) -> None:
    closed = closed_steps(text)
    assert step_spans(f"{text}Z{more}")[:closed] == step_spans(f"{text}Z")[:closed]
    if closed and "<answer>" not in text:
        assert len(step_spans(f"{text}Z")) == closed + 1


@settings(max_examples=40)
@given(text=texts)
def test_a_token_closes_a_step_where_their_number_grows(any_tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    segmenter, ids = Segmenter(any_tokenizer), ids_of(any_tokenizer, text)
    counts = [segmenter.closed_steps(ids[:length]) for length in range(len(ids) + 1)]
    grown = [segmenter.closes_step(ids[: at + 1], closed=counts[at]) for at in range(len(ids))]
    assert grown == [after > before for before, after in pairwise(counts)]


@pytest.mark.parametrize(
    ("length", "every", "ends"),
    [
        (7, 3, [2, 5, 6]),
        (6, 3, [2, 5]),
        (2, 3, [1]),
        (3, 1, [0, 1, 2]),
        (1, 15, [0]),
        (31, 15, [14, 29, 30]),
        (0, 3, []),
    ],
)
def test_interval_ends_worked_by_hand(
    tokenizer: PreTrainedTokenizerBase, length: int, every: int, ends: list[int]
) -> None:
    assert Segmenter(tokenizer).unit_ends([5] * length, UnitSpec(every=every)) == ends


def test_sparse_is_one_unit_and_dense_one_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    segmenter = Segmenter(tokenizer)
    assert segmenter.unit_ends([5, 6, 7], UnitSpec(Granularity.SPARSE)) == [2]
    assert segmenter.unit_ends([5, 6, 7], UnitSpec(Granularity.DENSE)) == [0, 1, 2]


def test_no_tokens_have_no_units(tokenizer: PreTrainedTokenizerBase) -> None:
    assert all(Segmenter(tokenizer).unit_ends([], spec) == [] for spec in SPECS)


def test_unit_index_worked_by_hand() -> None:
    assert unit_index([1, 4]) == [0, 0, 1, 1, 1]
    assert unit_index([]) == []


@given(ends=st.sets(st.integers(0, 60), min_size=1).map(sorted))
def test_unit_index_is_the_inverse_of_ends(ends: list[int]) -> None:
    index = unit_index(ends)
    assert len(index) == ends[-1] + 1
    assert [place for place, unit in enumerate(index) if [*index, -1][place + 1] != unit] == ends
