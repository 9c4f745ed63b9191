"""Ways of making a model forget, suppress or show: each is one function that returns a frozen `Intervention`."""

from .ablate import ablate_vectors
from .descent import Descent, LossFn, Minibatch, forget_nll, retain_nll
from .direction import ablate_direction, orthogonalize
from .gradient_ascent import gradient_ascent
from .gradient_difference import gradient_difference
from .idk_finetune import idk_finetune
from .key_space import key_space_detection
from .losses import AnswerNLL, answer_nll, cross_entropy
from .needle import needle_tune
from .neuron_adjust import neuron_adjust
from .npo import npo
from .pruning import selective_pruning
from .steer import steer
from .train import Trained, train

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
    "steer",
    "train",
]
