"""Methods that learn weights: each is a loss, descended on a copy of the model by `train`."""

from interventions.training.descent import Descent, LossFn, Minibatch, forget_nll, retain_nll
from interventions.training.gradient_ascent import gradient_ascent
from interventions.training.gradient_difference import gradient_difference
from interventions.training.idk_finetune import idk_finetune
from interventions.training.losses import AnswerNLL, answer_nll, cross_entropy
from interventions.training.npo import npo
from interventions.training.train import Trained, Training, train

__all__ = [
    "AnswerNLL",
    "Descent",
    "LossFn",
    "Minibatch",
    "Trained",
    "Training",
    "answer_nll",
    "cross_entropy",
    "forget_nll",
    "gradient_ascent",
    "gradient_difference",
    "idk_finetune",
    "npo",
    "retain_nll",
    "train",
]
