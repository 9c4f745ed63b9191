"""The organism's architecture: a small Llama with tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. The default has about 1.2 million parameters."""

    n_layers: int = 5
    d_model: int = 128
    d_mlp: int = 384
    n_heads: int = 4
    d_head: int = 32
    max_positions: int = 128


def make_model(tokenizer: PreTrainedTokenizerFast, shape: Shape, *, seed: int) -> LlamaForCausalLM:
    """A new float32 model for this tokenizer; its weights are a function of `seed` and `shape` alone."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        head_dim=shape.d_head,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        use_cache=True,
        architectures=["LlamaForCausalLM"],
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    rng = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / (2 * shape.n_layers) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                parameter.normal_(0.0, std, generator=rng)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=16, **ids)
    return model
