"""HookedModule: any module by path, with the surface a language model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hooked import DenseDelta, HookedModule, VestigeError, WeightPatch
from hooked.hooks import HookContext
from tests.numerics import FLOAT32, error


class Block(nn.Module):
    """A block with a part that is called `output`, as in ViT and BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.output = nn.Linear(4, 4)

    def forward(self, value: Tensor, *, scale: float = 1.0) -> Tensor:
        return value + self.output(torch.relu(self.inner(value))) * scale


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.unused = nn.Identity()

    def forward(self, value: Tensor) -> dict[str, Tensor]:
        value = self.norm(value)
        for block in self.blocks:
            value = block(value, scale=2.0)
        return {"last": value, "mean": value.mean(0)}


@pytest.fixture
def tower(rng: torch.Generator) -> Tower:
    module = Tower().eval()
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    return module


@pytest.fixture
def images(rng: torch.Generator) -> Tensor:
    return torch.randn(3, 4, generator=rng)


def double(activation: Tensor, hook: HookContext) -> Tensor:
    return activation * 2


def test_a_path_means_the_output_of_a_module_and_suffixes_choose(tower: Tower, images: Tensor) -> None:
    addresses = ["blocks.0", "blocks.0.input", "blocks.1.input", "blocks.0.inner.output", "input"]
    output, kept = HookedModule(tower).record(images, addresses=addresses)
    assert torch.equal(output["last"], tower(images)["last"])
    assert torch.equal(kept["blocks.0"], kept["blocks.1.input"])
    assert torch.equal(kept["blocks.0.input"], tower.norm(images))
    assert torch.equal(kept["blocks.0.inner.output"], tower.blocks[0].inner(kept["blocks.0.input"]))
    assert torch.equal(kept["input"], images)


def test_a_module_that_is_called_output_is_itself(tower: Tower, images: Tensor) -> None:
    """V1: `layer.3.output` of a vision transformer is a module of its own, not the end of the layer."""
    _, kept = HookedModule(tower).record(images, addresses=["blocks.0.output", "blocks.0.output.input", "blocks.0"])
    assert error(kept["blocks.0.output"], tower.blocks[0].output(kept["blocks.0.output.input"])) < FLOAT32
    assert not torch.equal(kept["blocks.0.output"], kept["blocks.0"])


def test_what_was_recorded_is_a_copy(tower: Tower, images: Tensor) -> None:
    """C1."""
    _, kept = HookedModule(tower).record(images, addresses=["input", "blocks.0"])
    kept["input"].zero_()
    kept["blocks.0"].zero_()
    assert images.any()
    assert not kept["blocks.0"].requires_grad


def test_edits_act_inside_the_block_in_order_and_leave_nothing(tower: Tower, images: Tensor) -> None:
    """C9, C14."""
    module = HookedModule(tower)
    normal = module(images)["last"]
    plain = module.record(images, addresses=["blocks.0"])[1]["blocks.0"]
    edits: list[tuple[str, Any]] = [
        ("blocks.0", double),
        ("blocks.0.output", double),
        ("blocks.0", lambda a, hook: a + 1),
    ]
    with module.edit(edits) as edited:
        assert edited is module
        _, kept = module.record(images, addresses=["blocks.0", "blocks.0.input", "blocks.0.output"])
        wanted = (kept["blocks.0.input"] + kept["blocks.0.output"] * 2) * 2 + 1
        assert error(kept["blocks.0"], wanted) < FLOAT32
    assert torch.equal(module.record(images, addresses=["blocks.0"])[1]["blocks.0"], plain)
    with pytest.raises(RuntimeError, match="boom"), module.edit({"blocks.1": boom}):
        module(images)
    assert torch.equal(module(images)["last"], normal)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())


def boom(activation: Tensor, hook: HookContext) -> Tensor:
    raise RuntimeError("boom")


def test_an_edit_of_an_output_that_is_a_mapping_or_tuple_keeps_its_kind(tower: Tower, images: Tensor) -> None:
    module = HookedModule(tower)
    normal = module(images)
    with module.edit({"": double}):
        edited = module(images)
    assert list(edited) == ["last", "mean"]
    assert torch.equal(edited["last"], normal["last"] * 2)
    assert torch.equal(edited["mean"], normal["mean"])
    lstm = HookedModule(nn.LSTM(4, 4))
    plain, state = lstm(images[None])
    with lstm.edit({"": double}):
        doubled, same = lstm(images[None])
    assert torch.equal(doubled, plain * 2)
    assert torch.equal(same[0], state[0])


def test_a_hugging_face_output_stays_one() -> None:
    from tests.tiny import tiny_hugging_face

    module = HookedModule(tiny_hugging_face("llama"))
    ids = torch.tensor([[4, 5]])
    with module.edit({"": double}):
        edited = module(input_ids=ids)
    assert torch.equal(edited.logits, module(input_ids=ids).logits * 2)


def test_patches_are_in_force_inside_the_block(tower: Tower, images: Tensor) -> None:
    """B7, B12: buffers included, and running statistics do not move in evaluation mode."""
    module = HookedModule(tower)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    normal = module(images)["last"]
    patch = WeightPatch(
        {"blocks.0.inner.weight": DenseDelta(torch.ones(4, 4)), "norm.running_mean": DenseDelta(torch.ones(4))}
    )
    with module.patch(patch):
        assert not torch.equal(module(images)["last"], normal)
    assert torch.equal(module(images)["last"], normal)
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("blocks.2", r"no module 'blocks.2' in Tower; did you mean 'blocks"),
        ("block.0.input", r"no module 'block.0' in Tower; did you mean 'blocks.0'"),
        ("zzzz", r"no module 'zzzz' in Tower$"),
    ],
)
def test_a_wrong_path_says_what_exists(tower: Tower, images: Tensor, address: str, message: str) -> None:
    """C12."""
    module = HookedModule(tower)
    with pytest.raises(VestigeError, match=message):
        module.record(images, addresses=[address])
    with pytest.raises(VestigeError, match=message), module.edit({address: double}):
        pass


def test_a_module_that_is_not_reached_is_an_error(tower: Tower, images: Tensor) -> None:
    """C10."""
    with pytest.raises(VestigeError, match="'unused' was never reached during the forward pass"):
        HookedModule(tower).record(images, addresses=["unused"])


def test_a_module_without_a_tensor_says_so() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, value: Tensor) -> Tensor:
            self.inner("text")
            return value

    for address in ("inner", "inner.input"):
        with pytest.raises(VestigeError, match="so the site cannot be read"):
            HookedModule(Nothing()).record(torch.ones(1), addresses=[address])


def test_a_replacement_of_another_shape_is_refused_where_it_happens(tower: Tower, images: Tensor) -> None:
    """C15."""
    with (
        HookedModule(tower).edit({"blocks.0": lambda a, hook: a[:1]}),
        pytest.raises(VestigeError, match=r"the edit at 'blocks.0' returned shape \(1, 4\), the site has \(3, 4\)"),
    ):
        tower(images)
