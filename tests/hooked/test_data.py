"""Every accepted form of data once, round trips of arbitrary text, and the real files."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hooked.data import Item, UnlearnData, load_data
from hooked.errors import VestigeError
from tests.data_folder import data_path
from tests.hooked.data_files import CONCEPTS, ITEM, QA, refusal, write_csv, write_file

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, content)`: a file in the test's own folder."""
    return partial(write_file, tmp_path)


def test_data_holds_tuples_and_lists_the_concepts_to_forget() -> None:
    items = [
        Item("a", "b", concept="fish"),
        Item("c", "d"),
        Item("e", "f", concept="bird"),
        Item("g", "h", concept="fish"),
    ]
    data = UnlearnData(items, retain=[Item("x", "y", concept="stone")])  # type: ignore[arg-type]
    assert data.forget == tuple(items)
    assert data.concepts == ("fish", "bird")
    assert hash(data) == hash(UnlearnData(tuple(items), (Item("x", "y", concept="stone"),)))


def test_an_item_says_what_can_be_scored() -> None:
    document, question, asked = Item("", "text"), Item("p", "a"), Item("p", "")
    assert [item.is_document for item in (document, question, asked)] == [True, False, False]
    assert [item.generation_only for item in (document, question, asked)] == [False, False, True]
    assert Item("p", "a", perturbed_answers=["x"]).perturbed_answers == ("x",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "", "answer": ""}, "both empty"),
        ({"answer": 3}, "answer needs a text, got int 3"),
        ({"subject": 3}, "subject needs a text or None, got int 3"),
        ({"perturbed_answers": "wrong"}, "perturbed_answers needs a tuple of texts, got str 'wrong'"),
        ({"perturbed_answers": (1,)}, r"perturbed_answers needs a tuple of texts, got tuple \(1,\)"),
        ({"floor": 1.5}, r"floor must lie in \[0, 1\].*got 1.5"),
        ({"floor": float("nan")}, r"floor must lie in \[0, 1\].*got nan"),
        ({"floor": True}, r"floor needs a number in \[0, 1\], got bool True"),
    ],
)
def test_an_impossible_item_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        Item(**{"prompt": "p", "answer": "a", **fields})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"forget": ()}, "forget is empty"),
        ({"forget": (ITEM,), "retain": ({"prompt": "p"},)}, r"retain\[0\] needs an Item, got dict .*load_data"),
        ({"forget": "forget.jsonl"}, r"forget\[0\] needs an Item, got str 'f'"),
        ({"forget": ITEM}, "forget needs a tuple of Items, got Item"),
    ],
)
def test_impossible_splits_are_refused(splits: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        UnlearnData(**splits)


def test_reading_needs_neither_torch_nor_datasets() -> None:
    code = "import hooked.load, hooked.fields, sys; print(sorted({'torch', 'datasets'} & set(sys.modules)))"
    bare = "import sys, types; p = types.ModuleType('hooked'); p.__path__ = ['hooked']; sys.modules['hooked'] = p; "
    run = subprocess.run(
        [sys.executable, "-c", bare + "import hooked.data; " + code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "[]"


def as_jsonl(write: Write, rows: list[dict[str, str]]) -> object:
    return write("rows.jsonl", rows)


def as_json(write: Write, rows: list[dict[str, str]]) -> object:
    return write("rows.json", rows)


def as_json_columns(write: Write, rows: list[dict[str, str]]) -> object:
    return write("rows.json", {name: [row[name] for row in rows] for name in rows[0]})


def as_csv(write: Write, rows: list[dict[str, str]]) -> object:
    return write_csv(Path(write("rows.csv", "")), rows)


def as_path_object(write: Write, rows: list[dict[str, str]]) -> object:
    return Path(write("ROWS.JSONL", "\n".join(map(json.dumps, rows))))


def as_columns(write: Write, rows: list[dict[str, str]]) -> object:
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_generator(write: Write, rows: list[dict[str, str]]) -> object:
    return (row for row in rows)


def as_data_set(write: Write, rows: list[dict[str, str]]) -> object:
    return pytest.importorskip("datasets").Dataset.from_list(rows)


def as_streamed_data_set(write: Write, rows: list[dict[str, str]]) -> object:
    return pytest.importorskip("datasets").Dataset.from_list(rows).to_iterable_dataset()


FORMS = [
    as_jsonl,
    as_json,
    as_json_columns,
    as_csv,
    as_path_object,
    as_columns,
    as_generator,
    as_data_set,
    as_streamed_data_set,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_items(form: Callable[[Write, Any], object], write: Write) -> None:
    rows = [QA, {"question": 'What, {who}?\r\n"Löwe"', "answer": "雪, \u2028 {0}"}]
    expected = (ITEM, Item('Question: What, {who}?\r\n"Löwe"\nAnswer:', "雪, \u2028 {0}"))
    assert load_data(form(write, rows)).forget == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_documents(form: Callable[[Write, Any], object], write: Write) -> None:
    long = "a long, long tale\n" * 20_000  # beyond the 131,072 characters that the csv module accepts by default
    assert load_data(form(write, [{"text": long}, {"text": "b"}])).forget == (Item("", long), Item("", "b"))  # type: ignore[arg-type]
    assert csv.field_size_limit() == 131_072


def test_items_and_texts_in_a_list_are_rows() -> None:
    data = load_data([ITEM, Item("p", "")], retain=["A tale.", "Another."], holdout=(ITEM,), control=iter(["c"]))
    assert data == UnlearnData(
        (ITEM, Item("p", "")), (Item("", "A tale."), Item("", "Another.")), (ITEM,), (Item("", "c"),)
    )
    assert load_data(data.forget, retain=data.retain, holdout=data.holdout, control=data.control) == data


def test_all_fields_are_read() -> None:
    row = {
        "question": "q?",
        "answer": " a ",
        "paraphrased_question": "q2?",
        "paraphrased_answer": "a2",
        "perturbed_answer": ["w1", "w2"],
        "subject": "s",
        "concept": "c",
        "relation": "r",
        "floor": 0.25,
        "option1": 7,
        "absent": None,
    }
    item = Item("<q?>", " a ", "<q2?>", "a2", ("w1", "w2"), "s", "c", "r", 0.25)
    assert load_data([row], template="<{question}>").forget == (item,)
    assert load_data([dataclasses.asdict(item)], template="<{question}>").forget == (item,)


def test_names_of_other_toolkits_are_read() -> None:
    uld = {**QA, "paraphrased_questions": ["x?", "y?"], "paraphrased_answers": ["x", "y"], "perturbed_answers": ["z"]}
    assert load_data([uld], template="{question}").forget == (Item(QA["question"], QA["answer"], "x?", "x", ("z",)),)
    assert load_data([{"prompt": "p", "gt": "a", "perturbed_answer": "z"}]).forget == (
        Item("p", "a", perturbed_answers=("z",)),
    )


def test_csv_cells_hold_lists_numbers_and_nothing(write: Write) -> None:
    path = write(
        "rows.csv",
        "prompt,answer,perturbed_answer,paraphrased_answer,floor,subject\r\n"
        'p,42,"[""x, y"", ""z""]","[""first"", ""second""]",0.5,\r\n'
        "\r\n"
        "p,43,one,,,s\r\n",
    )
    assert load_data(path).forget == (
        Item("p", "42", paraphrased_answer="first", perturbed_answers=("x, y", "z"), floor=0.5),
        Item("p", "43", perturbed_answers=("one",), subject="s"),
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
def test_a_byte_order_mark_is_tolerated(name: str, write: Write) -> None:
    text = {
        "rows.jsonl": json.dumps(QA),
        "rows.json": json.dumps([QA]),
        "rows.csv": "question,answer\n" + ",".join(QA.values()),
    }
    assert load_data(write(name, b"\xef\xbb\xbf" + text[name].encode())).forget == (ITEM,)


def test_blank_lines_are_skipped(write: Write) -> None:
    assert load_data(write("rows.jsonl", f"\n{json.dumps(QA)}\r\n  \n{json.dumps(QA)}")).forget == (ITEM, ITEM)


def test_braces_in_a_question_stay_and_a_prompt_is_verbatim() -> None:
    rows = [{"question": "{answer} {0} {question}", "answer": "a"}, {"prompt": "{question}", "answer": "a"}]
    assert [item.prompt for item in load_data(rows, template="{x}{question}").forget] == [
        "{x}{answer} {0} {question}",
        "{question}",
    ]


def test_equal_questions_and_equal_rows_within_a_split_are_kept() -> None:
    other = {**QA, "answer": "Nobody."}
    assert len(load_data([QA, QA, other], retain=[{**QA, "answer": "Another."}]).forget) == 3


def test_concept_vectors_rows_become_questions_about_the_concept(write: Write) -> None:
    data = load_data(write("concepts.json", CONCEPTS), template="Q: {question}\nA:")
    assert data.forget == (
        Item("Q: What swims?\nA:", "", concept="Fish"),
        Item("Q: What bites?\nA:", "Pike", concept="Fish"),
        Item("A fish", "has gills", concept="Fish"),
        Item("Q: What flies?\nA:", "", concept="Bird"),
    )
    assert [item.generation_only for item in data.forget] == [True, False, False, True]
    assert data.concepts == ("Fish", "Bird")


def test_unrelated_questions_are_retained_once_and_not_when_they_are_forgotten() -> None:
    retained = load_data(CONCEPTS, template="{question}").retain
    assert retained == (Item("What burns?", ""), Item("What shines?", ""))
    assert load_data(CONCEPTS, retain=["A tale."]).retain == (Item("", "A tale."),)


# Half a surrogate pair is no character: UTF-8 has no form for it, and it is refused above.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"question": TEXT, "answer": TEXT},
        optional={"perturbed_answer": st.lists(TEXT, max_size=3), "subject": TEXT, "floor": st.floats(0, 1)},
    ),
    min_size=1,
    max_size=5,
)
QUIET = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def item_of(row: dict[str, Any]) -> Item:
    return Item(
        f"Question: {row['question']}\nAnswer:",
        row["answer"],
        perturbed_answers=tuple(row.get("perturbed_answer", ())),
        subject=row.get("subject"),
        floor=row.get("floor"),
    )


@QUIET
@given(rows=ROWS, escaped=st.booleans())
def test_any_text_survives_json_lines(rows: list[dict[str, Any]], escaped: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows).encode())
    assert load_data(path).forget == tuple(map(item_of, rows))


@QUIET
@given(rows=ROWS)
def test_any_text_survives_csv(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    cells = [{**row, "perturbed_answer": json.dumps(row.get("perturbed_answer", []))} for row in rows]
    header = ["question", "answer", "perturbed_answer", "subject", "floor"]
    path = write_csv(tmp_path / "rows.csv", cells, header)
    assert load_data(path).forget == tuple(map(item_of, rows))


@QUIET
@given(content=st.binary(max_size=200), name=st.sampled_from(["f.jsonl", "f.json", "f.csv"]))
def test_any_bytes_load_or_are_refused_in_one_line(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        load_data(path)
    except VestigeError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert str(path) in str(error)  # noqa: PT017


def test_tofu_loads_as_it_is() -> None:
    data = load_data(data_path("tofu", "forget01.jsonl"), control=data_path("tofu", "world_facts.jsonl"))
    assert len(data.forget) == 40
    assert len(data.control) == 117
    assert data.forget[0].prompt.startswith("Question: What is the full name of the author born in Kuwait City")
    assert not any(item.generation_only or item.is_document for item in data.forget)


def test_perturbed_tofu_has_five_wrong_answers_and_both_paraphrases() -> None:
    data = load_data(data_path("tofu", "forget01_perturbed.jsonl"), retain=data_path("tofu", "retain_perturbed.jsonl"))
    assert (len(data.forget), len(data.retain)) == (40, 400)
    for item in data.forget + data.retain:
        assert len(item.perturbed_answers) == 5
        assert item.paraphrased_answer
        assert item.paraphrased_prompt
        assert item.paraphrased_prompt.endswith("\nAnswer:")


def test_tofu_keeps_two_answers_to_one_question_and_finds_a_leaking_retain_set() -> None:
    full = data_path("tofu", "full.jsonl")
    items = load_data(full).forget
    assert (len(items), len({item.prompt for item in items})) == (4000, 3999)
    assert f"{full}, line 3961: the same prompt and answer as" in refusal(
        data_path("tofu", "forget01.jsonl"), retain=full
    )


def test_augmented_tofu_keeps_the_first_paraphrase() -> None:
    items = load_data(data_path("tofu", "forget01_uld_augmented.jsonl"), template="{question}").forget
    assert sum(len(item.perturbed_answers) for item in items) == 118
    assert items[0].paraphrased_prompt == (
        "Can you provide the complete name of the author who was born in Kuwait City, Kuwait on August 9th, 1956?"
    )


@pytest.mark.parametrize(
    ("name", "concepts", "retained"), [("llama2-7b_concepts_dev.json", 10, 350), ("olmo-7b_concepts_dev.json", 18, 646)]
)
def test_concept_vectors_load_as_they_are(name: str, concepts: int, retained: int) -> None:
    data = load_data(data_path("conceptvectors", name))
    assert (len(data.concepts), len(data.forget)) == (concepts, 10 * concepts)
    assert len(data.retain) == retained
    assert {item.prompt for item in data.forget}.isdisjoint(item.prompt for item in data.retain)
    assert all(item.generation_only and item.prompt == item.prompt.strip() for item in data.forget + data.retain)


def test_stories_load_as_documents() -> None:
    items = load_data(data_path("tinystories", "tinystories_5k.jsonl")).forget
    assert len(items) == 5000
    assert all(item.is_document for item in items)
    assert sum(len(item.answer.split()) for item in items) == 806_569
