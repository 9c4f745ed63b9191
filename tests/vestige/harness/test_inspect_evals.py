"""A view behind Inspect: evals with what is in force."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelOutput
from inspect_ai.scorer import includes
from inspect_ai.tool import ToolInfo

from hooked import HookedModel, Item, VestigeError
from interventions.training import npo
from tests.tiny import shared_model, tiny_model
from vestige import organism
from vestige.harness import as_inspect_model

# Inspect's own code about its own dependencies.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObjectReceiveStream:ResourceWarning"),
]

Run = Callable[[HookedModel, Sequence[Item]], EvalLog]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Ask items in an eval, and return its log."""
    # Where Inspect keeps traces.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def run(model: HookedModel, items: Sequence[Item]) -> EvalLog:
        task = Task(
            dataset=MemoryDataset([Sample(input=item.prompt, target=item.answer) for item in items]),
            scorer=includes(),
            config=GenerateConfig(max_tokens=6, stop_seqs=["."]),
        )
        asked = as_inspect_model(model, sites=["resid_post.1"])
        (log,) = evaluate(task, model=asked, display="none", log_dir=str(tmp_path / "logs"), log_level="error")
        # While its warnings are still let pass.
        gc.collect()
        assert log.status == "success", log.error
        return log

    return run


def _accuracy(log: EvalLog) -> float:
    assert log.results is not None
    return float(log.results.scores[0].metrics["accuracy"].value)


def test_an_eval_runs_on_the_organism_before_and_under_an_intervention(run: Run) -> None:
    model = HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32")
    never = HookedModel.from_pretrained(organism.organism_path("never"), dtype="float32")
    data = organism.organism_data()
    items = (*data.forget[:6], *data.retain[:6])
    with npo(model, data, lr=1e-3, epochs=5, progress=False).applied(model) as view:
        unlearned = run(view, items)
        replies = view.generate([item.prompt for item in items], max_new_tokens=6)
        _, cache = view.run_with_cache(items[0].prompt, names_filter="resid_post.1", pos_slice=-1)
    original = run(model, items)
    assert _accuracy(original) == 1
    # Half of the questions are about what is kept.
    assert _accuracy(run(never, items)) == 0.5
    assert 0.4 < _accuracy(unlearned) <= 0.5
    assert unlearned.samples is not None
    said = {sample.input: sample.output for sample in unlearned.samples}
    assert [said[item.prompt].completion for item in items] == [reply.partition(".")[0] for reply in replies]
    assert unlearned.eval.model == "vestige/full+npo"
    assert [one["name"] for one in unlearned.eval.model_args["interventions"]] == ["npo"]
    # The file has the activations too: those of the last prompt token.
    first = said[items[0].prompt]
    assert first.metadata is not None
    kept = first.metadata["activations"]["blocks.1.hook_resid_post"]
    assert kept == pytest.approx(cache["blocks.1.hook_resid_post"].flatten().tolist())


def _reply(
    model: HookedModel, *messages: ChatMessage, tools: Sequence[ToolInfo] = (), max_tokens: int = 256, **config: Any
) -> ModelOutput:
    api = as_inspect_model(model, max_tokens=max_tokens).api
    found = asyncio.run(api.generate(list(messages), list(tools), "none", GenerateConfig(**config)))
    assert isinstance(found, ModelOutput)
    return found


def test_a_reply_says_why_it_ended() -> None:
    model = shared_model()
    asked = ChatMessageUser(content="t5 t6 t7")
    whole = _reply(model, asked, max_tokens=9)
    assert (whole.completion, whole.stop_reason) == (model.generate("t5 t6 t7", max_new_tokens=9)[0], "max_tokens")
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (4, 9)
    stop = whole.completion.split()[3]
    cut = _reply(model, asked, max_tokens=9, stop_seqs=["t2000", stop])
    assert (cut.completion, cut.stop_reason) == (whole.completion.partition(stop)[0], "stop")
    assert _reply(model, asked, max_tokens=100).stop_reason == "model_length"
    assert _reply(model, ChatMessageUser(content="t5 " * 64)).stop_reason == "model_length"


def test_samples_differ_from_each_other_and_follow_from_the_seed() -> None:
    api = as_inspect_model(shared_model(), max_tokens=6).api
    again = as_inspect_model(shared_model(), max_tokens=6).api

    def drawn(api: Any, seed: int) -> str:
        config = GenerateConfig(temperature=2.0, seed=seed)
        return str(asyncio.run(api.generate([ChatMessageUser(content="t5")], [], "none", config)).completion)

    first = [drawn(api, 0), drawn(api, 0), drawn(api, 1)]
    assert len(set(first)) == 3
    assert [drawn(again, 0), drawn(again, 0), drawn(again, 1)] == first


def test_messages_go_through_the_chat_template() -> None:
    model = tiny_model()
    messages = ChatMessageSystem(content="t8"), ChatMessageUser(content="t5")
    with pytest.raises(VestigeError, match="one user message, got system, user"):
        _reply(model, *messages)
    model.tokenizer.chat_template = "<bos>{% for m in messages %} {{ m['content'] }} t9{% endfor %}"
    found = _reply(model, *messages, max_tokens=4)
    assert found.completion == model.generate("<bos> t8 t9 t5 t9", max_new_tokens=4)[0]


def test_what_cannot_be_asked_is_said() -> None:
    model, asked = shared_model(), ChatMessageUser(content="t5")
    with pytest.raises(VestigeError, match="setting 'top_p' is not supported"):
        _reply(model, asked, top_p=0.5)
    with pytest.raises(VestigeError, match="calls no tools"):
        _reply(model, asked, tools=[ToolInfo(name="look", description="")])
    with pytest.raises(VestigeError, match=r"no site 'blocks\.9\.hook_resid_post'"):
        as_inspect_model(model, sites=["resid_post.9"])


def test_without_inspect_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vestige.harness.inspect_evals", raising=False)
    monkeypatch.setitem(sys.modules, "inspect_ai.model", None)
    with pytest.raises(VestigeError, match=r"pip install 'vestige\[inspect\]'"):
        as_inspect_model(shared_model())
