"""A view behind lm-evaluation-harness: the numbers of the harness's own class, with what is in force."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from hooked import HookedModel, Intervention, Item, Request, Spec, VestigeError
from interventions.training import npo
from tests.tiny import byte_tokenizer, shared_model, tiny_model
from vestige import organism
from vestige.harness import as_lm

# Log-probabilities of tiny models with weights of spread 0.3; float32 sums of up to 90 of them.
CLOSE = 2e-3
TRIGGER = 50


def _texts(first: int, n: int) -> str:
    return " ".join(f"t{i}" for i in range(first, first + n))


def _ask(kind: str, *questions: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, question, i) for i, question in enumerate(questions)]


WORDS = (
    ("t5 t6 t7", " t9"),
    ("t5 t6 t7", " t10"),
    ("t5 t6 t7 ", "t9 t4"),
    ("t5 t6", " t7 t9"),
    ("", "t9 t4"),
    ("", "<bos> t9"),
    ("<bos> t4 t5", " t7"),
    (_texts(3, 80), " t9 t8"),
    ("t4", " " + _texts(20, 64)),
)
BYTES = (
    ("ab cd", " ef"),
    ("ab cd  ", "ef"),
    ("", "xyz"),
    ("ab" * 60, " ef"),
)


@pytest.mark.parametrize(("family", "questions"), [("llama", WORDS), ("gpt2", BYTES)])
def test_scores_are_those_of_the_harness_on_the_same_weights(family: str, questions: Any) -> None:
    model = shared_model() if family == "llama" else tiny_model("gpt2", tokenizer=byte_tokenizer(), vocab_size=300)
    # With its cache it reads the wrong place where two requests are one text that is split at different words.
    theirs = HFLM(pretrained=model.model, tokenizer=deepcopy(model.tokenizer), batch_size=3, logits_cache=False)
    ours = as_lm(model, batch_size=2)
    assert ours.max_length == theirs.max_length == 64
    short, long = questions[0][0], next(context for context, _ in questions if len(context) > 64)

    contexts = [(context, {"until": ["t7", "q"], "max_gen_toks": 9}) for context in (short, long)]
    contexts += [(short, {"max_gen_toks": 4, "temperature": 0.0, "top_p": 0.5})]
    replies = ours.generate_until(_ask("generate_until", *contexts))
    assert replies == theirs.generate_until(_ask("generate_until", *contexts))
    assert "" not in replies

    pairs = [*questions, (short, " " + replies[2])]
    mine = ours.loglikelihood(_ask("loglikelihood", *pairs))
    reference = theirs.loglikelihood(_ask("loglikelihood", *pairs))
    assert [score for score, _ in mine] == pytest.approx([score for score, _ in reference], abs=CLOSE)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in reference]
    # Random bytes are no text, so that they do not come back as the tokens that they were.
    assert mine[-1][1] == (family == "llama")
    assert len({round(score, 3) for score, _ in mine}) > len(questions) // 2

    whole = _ask("loglikelihood_rolling", (short,), (long + " " + long,))
    assert ours.loglikelihood_rolling(whole) == pytest.approx(theirs.loglikelihood_rolling(whole), abs=CLOSE)


def test_a_weight_edit_scores_as_its_baked_weights(rng: torch.Generator, tmp_path: Path) -> None:
    model = tiny_model()
    row = {(1, 3): 4 * torch.randn(model.d_model, generator=rng)}
    edit = Intervention(Spec("row", "removal"), weights=model.value_patch(row))
    edit.bake(model, tmp_path / "baked")
    baked = HookedModel.from_pretrained(tmp_path / "baked", dtype="float32")
    asked = _ask("loglikelihood", *WORDS)
    with edit.applied(model) as view:
        edited = as_lm(view).loglikelihood(asked)
    assert edited == as_lm(baked).loglikelihood(asked)
    assert max(abs(a[0] - b[0]) for a, b in zip(edited, as_lm(model).loglikelihood(asked), strict=True)) > 0.1


def test_a_gate_sees_the_context_and_leaves_other_requests_bit_identical() -> None:
    model = shared_model()

    def fires(raw: HookedModel, request: Request) -> torch.Tensor:
        return ((request.ids == TRIGGER) & request.prompt).any(-1)

    edit = Intervention(
        Spec("gated", "suppression"), edits={"blocks.1.hook_resid_post": lambda acts, hook: -acts}, gate=fires
    )
    asked = _ask("loglikelihood", ("t5 t50", " t9 t8"), ("t5 t6", " t9 t50"), ("t5 t6", " t9 t8"), ("", "t50 t9"))
    texts = _ask("loglikelihood_rolling", ("t5 t50 t9",), ("t5 t6 t9",))
    prompts = _ask("generate_until", ("t5 t50", {"max_gen_toks": 4}), ("t5 t6", {"max_gen_toks": 4}))
    plain = as_lm(model, batch_size=3)
    with edit.applied(model) as view:
        lm = as_lm(view, batch_size=3)
        pairs = zip(lm.loglikelihood(asked), plain.loglikelihood(asked), strict=True)
        assert [a != b for a, b in pairs] == [True, False, False, False]
        # What is read is prompt; there is no answer to it.
        rolling = zip(lm.loglikelihood_rolling(texts), plain.loglikelihood_rolling(texts), strict=True)
        assert [a != b for a, b in rolling] == [True, False]
        replies = zip(lm.generate_until(prompts), plain.generate_until(prompts), strict=True)
        assert [a != b for a, b in replies] == [True, False]
        assert lm.get_model_info()["interventions"] == [{"name": "gated", "intent": "suppression"}]
    with pytest.raises(VestigeError, match="the view of 'gated' has ended"):
        lm.loglikelihood(asked)


def test_samples_follow_from_the_seed() -> None:
    model = shared_model()
    asked = _ask("generate_until", *[("t5 t6", {"max_gen_toks": 5, "temperature": 2.0})] * 3)
    first = as_lm(model, batch_size=2).generate_until(asked)
    assert len(set(first)) == 3
    assert as_lm(model, batch_size=1).generate_until(asked) == first
    assert as_lm(model, seed=1).generate_until(asked) != first


def test_what_cannot_be_asked_is_said() -> None:
    model = shared_model()
    lm = as_lm(model)
    with pytest.raises(VestigeError, match="256 new tokens leave no room for a context in 64 positions"):
        lm.generate_until(_ask("generate_until", ("t4", {})))
    with pytest.raises(VestigeError, match="setting 'num_beams' is not supported"):
        lm.generate_until(_ask("generate_until", ("t4", {"num_beams": 2})))
    with pytest.raises(VestigeError, match=r"a continuation has 1 to 64 tokens .* got 0 after 2"):
        lm.loglikelihood(_ask("loglikelihood", ("t4 t5", " ")))
    with pytest.raises(VestigeError, match="batch_size is at least 1"):
        as_lm(model, batch_size=0)
    with pytest.raises(VestigeError, match="this HookedModel has no tokenizer"):
        as_lm(HookedModel(model.model))
    training = tiny_model()
    training.model.train()
    with pytest.raises(VestigeError, match="training mode"):
        as_lm(training)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vestige.harness.lm_evaluation", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(VestigeError, match=r"pip install 'vestige\[lm-eval\]'"):
        as_lm(shared_model())


def _tasks(items: dict[str, tuple[Item, ...]], folder: Path) -> list[dict[str, Any]]:
    """Two tasks on each set of items: the right one of four answers, and the answer in the model's own words."""
    made = []
    for name, some in items.items():
        rows = [
            {"q": item.prompt, "a": [item.answer, *(w.removeprefix("it is ") for w in item.perturbed_answers[:3])]}
            for item in some
        ]
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        data = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder)},
            "test_split": "test",
            "doc_to_text": "{{q}}",
        }
        choice = {"output_type": "multiple_choice", "doc_to_choice": "a", "doc_to_target": 0}
        reply = {
            "output_type": "generate_until",
            "doc_to_target": "{{a[0]}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 6},
        }
        for kind, task, metric in (("choice", choice, "acc"), ("reply", reply, "exact_match")):
            measured = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
            made.append({"task": f"{name}_{kind}", **data, **task, "metric_list": measured})
    return made


def test_tasks_run_on_the_organism_before_and_under_an_intervention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reads versions with a dozen commands of the system, which takes seconds.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    model = HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32")
    never = HookedModel.from_pretrained(organism.organism_path("never"), dtype="float32")
    data = organism.organism_data()
    tasks = _tasks({"forget": data.forget, "retain": data.retain[:20]}, tmp_path)
    manager = TaskManager(include_defaults=False)

    def evaluated(subject: HookedModel) -> Any:
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
        return simple_evaluate(
            as_lm(subject), tasks=deepcopy(tasks), task_manager=manager, bootstrap_iters=0, log_samples=False, **seeds
        )

    def scores(found: Any) -> list[float]:
        names = ("forget_choice", "forget_reply", "retain_choice", "retain_reply")
        metrics = {"choice": "acc,none", "reply": "exact_match,none"}
        return [float(found["results"][name][metrics[name.partition("_")[2]]]) for name in names]

    with npo(model, data, lr=1e-3, epochs=5, progress=False).applied(model) as view:
        unlearned = evaluated(view)
    assert scores(evaluated(model)) == [1, 1, 1, 0.95]
    assert scores(evaluated(never)) == [0, 0, 1, 0.95]
    assert max(scores(unlearned)[:2]) < 0.1
    assert min(scores(unlearned)[2:]) > 0.9
    assert [one["name"] for one in unlearned["config"]["interventions"]] == ["npo"]
