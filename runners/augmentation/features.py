"""What a selector sees of a sample: encoder state, teacher's answer, student's loss, nearness to the task's texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_COMPONENTS = 16  # of the encoder's states: a selector has few rewards to fit its weights to
_Floats = npt.NDArray[np.float32]


def selector_features(
    states: npt.NDArray[np.float16],
    logits: _Floats,
    losses: _Floats,
    target_states: npt.NDArray[np.float16],
    regression: bool,
) -> _Floats:
    """Features float32 [n, d] of n samples, each of mean 0 and deviation 1.

    The state is given by its principal components among the samples. The answer is the probabilities of the classes,
    or the value of a regression.

    Args:
        states: [n, width] of the teacher.
        logits: [n, outputs] of the teacher.
        losses: [n] of the student.
        target_states: [m, width] of the train split.
        regression: whether the logit is a value.
    """
    pooled = np.asarray(states, np.float32)
    centre = pooled.mean(0)
    _, vectors = np.linalg.eigh(np.cov((pooled - centre).T.astype(np.float64)))
    basis = vectors[:, ::-1][:, :_COMPONENTS].astype(np.float32)
    components = (pooled - centre) @ basis
    own = (np.asarray(target_states, np.float32) - centre) @ basis
    if regression:
        answers = np.asarray(logits, np.float32)
    else:
        exponent = np.exp(logits - logits.max(1, keepdims=True))
        answers = exponent / exponent.sum(1, keepdims=True)
    found = np.concatenate([components, answers, losses[:, None], domain_score(components, own)[:, None]], axis=1)
    deviation = found.std(0)
    scaled: _Floats = ((found - found.mean(0)) / np.where(deviation > 1e-6, deviation, 1.0)).astype(np.float32)
    return scaled


def domain_score(samples: _Floats, target: _Floats) -> _Floats:
    """How much samples [n, d] look like texts of the task [m, d]: log-odds of a linear classifier of the two.

    The paper's score is open. A classifier asks in which respects the two differ, where the distance to the middle of
    the task's texts would take a text between two classes for a typical one.
    """
    from sklearn.linear_model import LogisticRegression

    inputs = np.concatenate([target, samples])
    spread = inputs.std(0)
    spread[spread < 1e-6] = 1.0
    which = np.repeat([1, 0], [len(target), len(samples)])
    classifier = LogisticRegression(C=0.1, class_weight="balanced", max_iter=300).fit(inputs / spread, which)
    found: _Floats = classifier.decision_function(samples / spread).astype(np.float32)
    return found
