"""What every number means, in plain words: what is measured, how to read it, and what it does not prove."""

from __future__ import annotations

from dataclasses import dataclass

from ..result import Orientation

GROUPS = (
    "What it says",
    "What it keeps",
    "What can be read inside",
    "What its weights hold",
    "What it was trained on",
    "Other checks",
)

# Continues "higher means ...".
ORIENTATION: dict[Orientation, str] = {
    "leaky": "still known",
    "forgotten": "forgotten",
    "useful": "useful",
    "changed": "changed",
}


@dataclass(frozen=True)
class Explanation:
    """One entry of the reading guide.

    Args:
        check: Name of the check in `report.json`.
        title: The name a person reads.
        plain: The same in a few words, for a card: it continues a row label.
        group: One of `GROUPS`.
        measures: What is measured and how.
        chance: What the chance floor is.
        control: What the control means.
        limits: What the number does not prove.
    """

    check: str
    title: str
    plain: str
    group: str
    measures: str
    chance: str
    control: str
    limits: str


_SAYS, _KEEPS, _INSIDE, _WEIGHTS, _TRAINED, _OTHER = GROUPS
_NEVER = (
    "The same items on a model that was never taught them. Whatever it scores is guessing and general skill, "
    "not memory."
)

_ALL = (
    Explanation(
        "forget_probability",
        "Forget probability",
        "gives the answers to forget",
        _SAYS,
        "How likely the model finds the right answer to each question it should have forgotten: the probability per "
        "answer token (geometric mean over the tokens), averaged over the questions.",
        "The probability of guessing the answer among the possible ones, where the data says how many there are.",
        _NEVER,
        "A low value shows that the model does not say the answer when asked in this way. It may still hold it; and "
        "a broken model scores low on everything, so read it beside retain probability and degeneracy.",
    ),
    Explanation(
        "paraphrase_probability",
        "Reworded-question probability",
        "gives them when asked in other words",
        _SAYS,
        "The same probability when the question is put in other words, in a phrasing that most methods were not fitted "
        "on.",
        "The probability of guessing the answer among the possible ones, where the data says how many there are.",
        _NEVER,
        "One other phrasing is not all phrasings; a low value says that this one is covered too.",
    ),
    Explanation(
        "forget_rouge",
        "Forget ROUGE",
        "writes the answers to forget",
        _SAYS,
        "How much of the right answer turns up, in order, in what the model writes (ROUGE-L recall of greedy text).",
        "What the original writes, compared with the right answers to other questions: the overlap of any answer.",
        _NEVER,
        "Another wording of the right answer scores low, and common words score above zero. Text that is never "
        "written may still be known.",
    ),
    Explanation(
        "truth_ratio",
        "Truth ratio",
        "cannot tell right from wrong",
        _SAYS,
        "Whether the model tells the right answer from wrong ones of the same style. R is the probability of the "
        "wrong answers (geometric mean) divided by that of the right one; the score is the mean of min(R, 1/R). 1: "
        "it finds them equally likely. 0: it is sure one way or the other.",
        "No fixed value: how far apart the answers lie for a model that knows nothing depends on their wording, so "
        "the control is the reference.",
        _NEVER,
        "It compares likelihoods only with each other: a model that writes noise can score like one that never knew.",
    ),
    Explanation(
        "forget_quality",
        "Forget quality",
        "looks like a retrained model",
        _SAYS,
        "The p-value of a two-sided Kolmogorov-Smirnov test that the truth ratios come from the same distribution "
        "as those of a model retrained without the forget set. Below 0.05 the two can be told apart.",
        "The smallest p that this number of items can give. A method at this value is as far away as the test can "
        "tell, so such methods cannot be ranked.",
        "Two models that both never learned the facts, compared in the same way; they should have a large p.",
        "A large p is no evidence of deletion: few items, or a model tuned on this very test, give one too. Never "
        "compare p-values across different n.",
    ),
    Explanation(
        "extraction_strength",
        "Extraction strength",
        "finishes a started answer",
        _SAYS,
        "How little of the answer must be shown before the model completes the rest without a mistake: 1 means from "
        "nothing, 0 means never.",
        "0: no part of the answer is completed. Short answers can be finished by luck, which the control shows.",
        _NEVER,
        "It counts exact tokens only, so one wrong word in the middle halves the score of a model that knows the "
        "answer.",
    ),
    Explanation(
        "exact_memorization",
        "Exact memorization",
        "next tokens exactly right",
        _SAYS,
        "The share of answer tokens that the model would pick first, given the right tokens before.",
        "One token picked blindly out of the vocabulary.",
        _NEVER,
        "Grammar and frequent words count as well, so the control is often far above chance: compare with it.",
    ),
    Explanation(
        "retain_probability",
        "Retain probability",
        "gives the answers to keep",
        _KEEPS,
        "Forget probability's twin on the questions the model should still answer.",
        "The probability of guessing the answer among the possible ones, where the data says how many there are.",
        "The same items on the never-taught model. It was taught these, so it should score high.",
        "Only the retain items were asked. Skills that nobody listed may be damaged unseen.",
    ),
    Explanation(
        "model_utility",
        "Model utility",
        "stays useful",
        _KEEPS,
        "The harmonic mean of probability, ROUGE and truth ratio on what should be kept; one part at zero makes the "
        "whole zero.",
        "Near zero: a model that guesses fails at least one part.",
        "The same parts on the never-taught model, which should stay useful.",
        "One number for several abilities: look at the parts before calling two methods equal.",
    ),
    Explanation(
        "degeneracy",
        "Degeneracy",
        "writes varied text",
        _KEEPS,
        "The share of different tokens in what the model writes. Text that repeats itself, as a broken model's does, "
        "scores low.",
        "Undefined: random tokens score near 1.",
        "The same prompts on the never-taught model.",
        "High variety is not sense. The number only warns: when it collapses, low knowledge scores say nothing about "
        "forgetting.",
    ),
    Explanation(
        "retain_state_similarity",
        "State similarity, retain",
        "inside it is unharmed on the rest",
        _KEEPS,
        "State similarity on the prompts that should still be answered. Lower than on the original: the edit reached "
        "further than the facts it was made for.",
        "About 0: the same with the prompts exchanged.",
        "The never-taught model: another training run of the same knowledge.",
        "States may change without loss: compare with the retain probability.",
    ),
    Explanation(
        "relation_neighbours",
        "Relation neighbours",
        "questions still lie where they belong",
        _KEEPS,
        "Whether the five nearest neighbours of a retain prompt, by its hidden state, ask for the same thing of other "
        "subjects; mean over the blocks. The remarks give the forget prompts.",
        "The same with the relations exchanged between the prompts.",
        "The never-taught model, whose representation is whole.",
        "It looks at what is asked, not at the answer: it shows a damaged representation, not a forgotten fact.",
    ),
    Explanation(
        "lens_leak",
        "Logit-lens leak",
        "answer readable inside",
        _INSIDE,
        "Whether the answer can be read off the hidden state at the end of the prompt, decoded with the original "
        "model's own final norm and unembedding. The score of a layer is the mean reciprocal rank of the answer's "
        "first token: 1 when it is always on top, 0.5 when it is second. The number shown is that of the best layer.",
        "The same with the answers exchanged between the questions, best layer included, so that choosing a layer "
        "gives no advantage.",
        "The same decoding in the never-taught model.",
        "It only sees knowledge that is written in the original's output vocabulary: a low value is not absence. "
        "Only the first token of an answer is looked for.",
    ),
    Explanation(
        "probe_leak",
        "Probe leak",
        "a probe finds it inside",
        _INSIDE,
        "How often a linear probe of the hidden state prefers the right answer to a wrong one. It learns on "
        "retained facts and is asked about the forget facts, layer by layer; the number shown is that of the layer "
        "which does best on other retained facts.",
        "0.5: the right and the wrong answer win equally often. The remarks give the same probe taught with "
        "shuffled answers.",
        "The same classifier on the never-taught or retrained model: the general structure of language helps a "
        "probe, so compare with this, not with chance.",
        "A probe shows that the information is there, not that the model uses it.",
    ),
    Explanation(
        "depth_leak",
        "Depth leak",
        "its hidden states still carry them",
        _INSIDE,
        "The model's hidden states at the places where each answer is predicted are put into the original model, block "
        "by block, and the original reads on from there. Where a retrained model's states make it lose the answer, "
        "that block carried the fact. The score is 1 minus the Unlearning Depth Score: the share of this loss that the "
        "model's own states do not cause. 1: its states are as good as the original's. 0: as empty as the retrained "
        "model's.",
        "0: the retrained model itself, by construction.",
        "A model that was never taught the facts, from another training run. It is above 0, because two models lack "
        "the facts in different ways: a method at this value is as deep as can be told.",
        "The original does the reading, so what it cannot read is not seen, and a change of the output layer alone is "
        "invisible by intention. A broken state scores as low as an empty one: read it beside retain probability.",
    ),
    Explanation(
        "raw_depth_leak",
        "Depth leak, bare weights",
        "so do those of its bare weights",
        _INSIDE,
        "The same with every hook, filter and gate taken off.",
        "0: the retrained model itself, by construction.",
        "The never-taught model, as in the depth leak.",
        "For a method that changes no weight this is 1 by construction and says nothing about the method.",
    ),
    Explanation(
        "lens_depth_leak",
        "Depth leak, by lens",
        "so does a lens, block by block",
        _INSIDE,
        "The depth leak without patching: at the same places every block is decoded by the original's final norm and "
        "unembedding, and the log-probability of the answer is compared.",
        "0: the retrained model itself, by construction.",
        "The never-taught model, as in the depth leak.",
        "It sees only what is already written in the output vocabulary; the depth leak also sees what later blocks "
        "would make of it.",
    ),
    Explanation(
        "latent_survival",
        "Latent survival",
        "latents still mark the concept",
        _INSIDE,
        "Latents of the sparse autoencoder (SAE) that tell prompts to forget from prompts to keep in the original, "
        "chosen there on half of the facts. The score is how well they tell the other half apart in this model: the "
        "chance that a prompt to forget makes them larger than a prompt to keep (mean AUC).",
        "Latents that fire about as often, in the same model; near 0.5.",
        "The never-taught model. It may recognise names without knowing facts, and the SAE was not made for it.",
        "It says that the concept is recognised, not that its facts are known. A silent latent is no evidence where "
        "the SAE no longer reconstructs the states: read it beside explained variance.",
    ),
    Explanation(
        "raw_latent_survival",
        "Latent survival, bare weights",
        "so do those of its bare weights",
        _INSIDE,
        "The same with every hook, filter and gate taken off.",
        "Latents that fire about as often, in the same model; near 0.5.",
        "The never-taught model, as in latent survival.",
        "For a method that changes no weight this is the original's value by construction.",
    ),
    Explanation(
        "sae_explained_variance",
        "Explained variance of the SAE",
        "the SAE still reads its states",
        _INSIDE,
        "The share of the variance of this model's hidden states, on the prompts to forget and to keep, that the SAE "
        "reconstructs.",
        "0: the mean state does as well.",
        "The never-taught model: another training run, whose states the SAE never saw.",
        "Below 0.7 latents may be silent because the states moved, so low survival then says nothing of the concept.",
    ),
    Explanation(
        "forget_state_similarity",
        "State similarity, forget",
        "inside it is still the original",
        _INSIDE,
        "How alike the hidden states at the end of the forget prompts are to the original's (debiased linear CKA, mean "
        "over the blocks). 1: nothing changed inside, whatever the model says.",
        "About 0: the same with the prompts exchanged.",
        "The never-taught model. It computes in its own way, so its value is what an unrelated training run reaches.",
        "Use it to see that nothing changed. A low value does not certify deletion: states can turn and keep all they "
        "carry.",
    ),
    Explanation(
        "cka_erasure",
        "Move towards the retrained model",
        "its states moved to a retrained model's",
        _INSIDE,
        "How far the states of the forget prompts went from the original's (0) towards the retrained model's (1), in "
        "debiased CKA, blocks weighted by how far the two lie apart.",
        "0: the original, by construction.",
        "The never-taught model: it lacks the facts too, and yet is rarely near 1.",
        "A weak sign: in published comparisons it hardly tells models that know from models that do not. Most methods "
        "score 0.",
    ),
    Explanation(
        "suppression_index",
        "Suppression index",
        "hidden rather than gone",
        _INSIDE,
        "How much knowledge comes back when every hook, filter and gate is taken off and the bare weights answer, as "
        "a share of what the original knows beyond the control. 1: everything was only hidden. 0: taking them off "
        "changes nothing.",
        "0, by definition, for a method that only changes weights.",
        "The never-taught model sets the zero of the scale; it has nothing to take off, so its own value is 0.",
        "A value of 0 does not mean the weights are clean; it only says that nothing is hidden by switches.",
    ),
    Explanation(
        "concept_vector_cosine",
        "Concept-vector cosine",
        "vectors keep their direction",
        _WEIGHTS,
        "How far the concept's vectors in the MLP weights still point where they did in the original. 1: same "
        "direction.",
        "About 0: two random directions are nearly orthogonal.",
        "The same rows in a model trained separately. It has its own neurons in these places, so it shows what an "
        "unrelated row looks like.",
        "Vectors that moved may still work, and knowledge may sit in other rows than the ones that were followed.",
    ),
    Explanation(
        "concept_vector_l2",
        "Concept-vector distance",
        "vectors moved by",
        _WEIGHTS,
        "How far the concept's vectors moved, as a share of their own length. 0: untouched. 1: as far as setting "
        "them to zero moves them.",
        "0: nothing moved.",
        "The distance to the same rows of a separately trained model, which has other neurons in these places.",
        "A vector can move far and keep its direction, or be cut in the one direction that matters and hardly move.",
    ),
    Explanation(
        "concept_vector_jaccard",
        "Concept-vector tokens kept",
        "concept tokens kept",
        _WEIGHTS,
        "How many of the tokens that the concept's vectors promote most are still the same (Jaccard index of the top "
        "tokens). 1: all of them; 0: none.",
        "The overlap of two random sets of this size, k / (2V − k).",
        "The same rows in a model trained separately, which share no neurons.",
        "Untouched vectors mean that the trace is still stored. Changed ones do not prove that nothing else stores it.",
    ),
    Explanation(
        "weight_change",
        "Weight change",
        "weights moved by",
        _WEIGHTS,
        "The distance of all weights from the original's, as a share of their size; per block likewise. The remarks "
        "name the matrix that moved most, how many of its lines moved, and in about how many directions.",
        "0: nothing moved.",
        "A separately trained model, which lies about as far away as its own size.",
        "A small step in the right direction can remove a fact, and a large one miss it.",
    ),
    Explanation(
        "membership_loss",
        "Membership, loss",
        "gives away what it was trained on",
        _TRAINED,
        "Whether the answers to forget can be told from answers of the same kind that no subject was trained on, by "
        "how probable the model finds them: the chance that one of the former is the more probable.",
        "0.5: the two sets cannot be told apart.",
        "The never-taught model: what it reaches above 0.5 the two sets differ by themselves.",
        "It takes holdout items that differ in nothing but the training. A value below 0.5 is no better than one "
        "above: it marks the answers too.",
    ),
    Explanation(
        "membership_zlib",
        "Membership, zlib",
        "so does its loss per compressed byte",
        _TRAINED,
        "The same with the loss divided by the length of the compressed answer.",
        "0.5: the two sets cannot be told apart.",
        "The never-taught model.",
        "Compression of short answers is crude.",
    ),
    Explanation(
        "membership_min_k",
        "Membership, Min-K",
        "so do its least probable tokens",
        _TRAINED,
        "The same by the mean of the two fifths of the tokens that the model finds least probable.",
        "0.5: the two sets cannot be told apart.",
        "The never-taught model.",
        "For answers of one or two tokens it is the loss again.",
    ),
    Explanation(
        "membership_min_k_plus_plus",
        "Membership, Min-K++",
        "so do its least expected tokens",
        _TRAINED,
        "The same with each token's log-probability measured in standard deviations of the model's own distribution.",
        "0.5: the two sets cannot be told apart.",
        "The never-taught model.",
        "A model that is sure of everything has hardly any spread, and then this is noise.",
    ),
    Explanation(
        "priv_leak",
        "PrivLeak",
        "hides it as the retrained model does",
        _TRAINED,
        "How far the membership AUC (Min-K, 40 %) lies from the retrained model's, in percent of the room there is. "
        "-100: fully recognised. 0: like the retrained model. Above: recognised by being avoided.",
        "Undefined: 0 is the retrained model.",
        "The retrained model against the never-taught one.",
        "A model that broke down passes through 0 as well. With few items it is noise of more than ten points.",
    ),
    Explanation(
        "s_mia",
        "Membership closeness",
        "is as anonymous as the retrained model",
        _TRAINED,
        "1 minus the relative distance of the membership AUC from the retrained model's; the harmonic mean of the "
        "four.",
        "Undefined: 1 is the retrained model.",
        "The retrained model against the never-taught one.",
        "It does not say on which side of the retrained model the difference lies, nor whether anything else works.",
    ),
)
KNOWN: dict[str, Explanation] = {entry.check: entry for entry in _ALL}


def explain(check: str) -> Explanation:
    """Return the explanation of a check; a check that this file does not know gets a general one."""
    if check in KNOWN:
        return KNOWN[check]
    title = check.replace("_", " ").strip().capitalize() or "Unnamed check"
    return Explanation(
        check,
        title,
        title.lower(),
        _OTHER,
        "This version of the report has no description of this check; see the documentation of the code that "
        "measured it.",
        "What chance scores on the same items, where the table gives it.",
        "The same check on a model that was never taught, or was retrained without the forget set.",
        "One number never proves that knowledge is gone.",
    )


def in_reading_order(checks: list[str]) -> list[Explanation]:
    """Return one explanation per check, by group, known ones in the order of this file and the others as they came."""
    known = list(KNOWN)
    return sorted(
        map(explain, dict.fromkeys(checks)),
        key=lambda e: (GROUPS.index(e.group), known.index(e.check) if e.check in KNOWN else 0),
    )
