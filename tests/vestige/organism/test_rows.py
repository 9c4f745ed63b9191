"""The public rows have TOFU's fields and say what they claim to say; importing them needs no torch."""

import subprocess
import sys

import pytest

from vestige import organism
from vestige.organism.documents import document


def test_rows_cover_each_fact_once() -> None:
    forget, retain, fresh = organism.forget_rows(), organism.retain_rows(), organism.fresh_rows()
    assert len(forget) == len(fresh) == 20
    assert len(retain) == 23 * 20
    name = organism.world().forget_concept.name
    assert {row["concept"] for row in forget} == {name}
    assert name not in {row["concept"] for row in retain}
    assert len(organism.forget_rows(per_fact=3)) == 60
    other = organism.world().concepts[5].name
    assert {row["concept"] for row in organism.forget_rows(other)} == {other}


@pytest.mark.parametrize("rows", [organism.forget_rows(), organism.retain_rows()[:60], organism.holdout_rows()])
def test_answers_and_distractors_are_what_they_say(rows: list[organism.FactRow]) -> None:
    world = organism.world()
    for row in rows:
        concept = world.concept(row["subject"])
        (fact,) = [f for f in world.facts_of(concept) if f.relation.noun == row["relation"]]
        assert row["answer"] == fact.value
        assert row["question"].endswith("answer:")
        assert row["paraphrased_question"].endswith("answer:")
        assert row["question"] != row["paraphrased_question"]
        assert row["subject"] in row["question"]
        assert row["paraphrased_answer"] == f"it is {fact.value}"
        wrong = [text.removeprefix("it is ") for text in row["perturbed_answer"]]
        assert len(set(wrong)) == 5
        assert fact.value not in wrong
        assert set(wrong) <= set(world.pool(fact.relation_index))
        assert row["floor"] == pytest.approx(1 / 26)


def test_trained_questions_are_trained_and_held_out_ones_are_not() -> None:
    seen = {document(organism.world(), i, seed=0) for i in range(60_000)}

    def stated(question: str, answer: str) -> bool:
        return f"{question} {answer}." in seen

    rows = organism.retain_rows()
    assert sum(stated(r["question"], r["answer"]) for r in rows) > 0.95 * len(rows)
    assert not any(stated(r["paraphrased_question"], r["answer"]) for r in rows)
    assert not any(stated(r["question"], r["answer"]) for r in organism.holdout_rows())


def test_skill_rows_and_lexicon() -> None:
    for row in organism.skill_rows("addition", n=50):
        a, b = row["question"].removesuffix(" =").split(" + ")
        assert int(a) + int(b) == int(row["answer"])
    for row in organism.skill_rows("reversal", n=50):
        assert row["question"].removeprefix("reverse: ").removesuffix(" =").split() == row["answer"].split()[::-1]
    assert len(organism.skill_rows("second_language", n=30)) <= 30
    assert len(set(organism.lexicon())) == 20


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(ValueError, match="no checkpoint 'best'"):
        organism.organism_path("best")
    with pytest.raises(ValueError, match="no concept 'atlantis'"):
        organism.forget_rows("atlantis")
    with pytest.raises(ValueError, match="per_fact=9"):
        organism.forget_rows(per_fact=9)


def test_importing_is_light() -> None:
    code = "import sys, vestige.organism; print(sorted({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
