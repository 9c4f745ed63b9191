"""Ways of making a model forget, suppress or show: each is one function that returns a frozen `Intervention`."""

from .ablate import ablate_vectors
from .direction import ablate_direction, orthogonalize
from .key_space import key_space_detection
from .needle import needle_tune
from .neuron_adjust import neuron_adjust
from .pruning import selective_pruning
from .sequential import sequentially
from .steer import steer
from .training import (
    AnswerNLL,
    Descent,
    LossFn,
    Minibatch,
    Trained,
    answer_nll,
    cross_entropy,
    forget_nll,
    gradient_ascent,
    gradient_difference,
    idk_finetune,
    npo,
    retain_nll,
    train,
)

__all__ = [
    "AnswerNLL",
    "Descent",
    "LossFn",
    "Minibatch",
    "Trained",
    "ablate_direction",
    "ablate_vectors",
    "answer_nll",
    "cross_entropy",
    "forget_nll",
    "gradient_ascent",
    "gradient_difference",
    "idk_finetune",
    "key_space_detection",
    "needle_tune",
    "neuron_adjust",
    "npo",
    "orthogonalize",
    "retain_nll",
    "selective_pruning",
    "sequentially",
    "steer",
    "train",
]
