"""Known detectors of poisoned samples, as the Adversarial Robustness Toolbox implements them."""

import contextlib
import io
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from art.defences.transformer.poisoning import STRIP
from art.estimators.classification import PyTorchClassifier
from jaxtyping import Bool, Float
from scipy.stats import entropy
from torch import Tensor, nn

from assay.randomness import Seed, generator
from assay.records import record
from experiment import Case, Ordinary, Prepared


@record
class Detected:
    """What a detector says of the samples."""

    flagged: Bool[Tensor, " samples"]
    scores: Float[Tensor, " samples"] | None
    """Higher is more suspicious; None where the method only sorts into two."""
    examined: Bool[Tensor, " samples"]
    """Which samples it was asked about."""


class Baseline(Protocol):
    """Anything that judges the samples of a poisoned training set, given a model of it."""

    def __call__(self, case: Case, prepared: Prepared, ordinary: Ordinary) -> Detected:
        """Judge every sample."""
        ...


@record
class ActivationClustering:
    """Two clusters of the features of every class; the smaller is suspicious if it is small.

    Source:
        Chen et al., "Detecting backdoor attacks on deep neural networks by activation clustering",
        2018. arXiv:1811.03728. ART's `smaller` flags a cluster of every class, also of clean ones.
        Its `relative-size`, which flags it below 35 % of the class, fails with numpy 2 where there
        is no such cluster, so that this rule stands here, behind `smaller`.
    """

    dims: int = 10
    largest: float = 0.35
    """Share of a class below which its smaller cluster is suspicious, in (0, 0.5]."""

    def __call__(self, case: Case, prepared: Prepared, ordinary: Ordinary) -> Detected:
        """Judge every sample."""
        features, labels = _features(case, prepared, ordinary), prepared.suspects.labels
        defence = ActivationDefence(features, floats(prepared.poisoned.inputs), labels.numpy())
        with _isolated(case.part("baseline")):
            _, is_clean = defence.detect_poison(
                nb_clusters=2, nb_dims=self.dims, reduce="PCA", cluster_analysis="smaller"
            )
        flagged = torch.tensor(is_clean) == 0
        for label in labels.unique():
            rows = labels == label
            if flagged[rows].double().mean() >= self.largest:
                flagged[rows] = False
        return Detected(flagged=flagged, scores=None, examined=torch.ones_like(flagged))


@record
class SpectralSignatures:
    """The part of the features along the top singular vector of their class.

    Source:
        Tran, Li, Madry, "Spectral signatures in backdoor attacks", NeurIPS 2018. arXiv:1811.00636.
        It must be told how much poison to expect, and removes 1.5 times as much from every
        class; here it is told the truth, at most a third. ART takes the singular vector of the
        centred features, and projects features that are not centred.
    """

    multiplier: float = 1.5

    def __call__(self, case: Case, prepared: Prepared, ordinary: Ordinary) -> Detected:
        """Judge every sample."""
        features, labels = _features(case, prepared, ordinary), prepared.suspects.labels
        inputs = floats(prepared.poisoned.inputs)
        defence = SpectralSignatureDefense(
            features,
            inputs,
            labels.numpy(),
            expected_pp_poison=_largest_share(prepared),
            eps_multiplier=self.multiplier,
        )
        _, is_clean = defence.detect_poison()
        activations = features.get_activations(inputs, layer=len(features.layer_names) - 1)
        scores = torch.zeros(len(labels))
        for label in labels.unique():
            rows = labels == label
            own = activations[rows.numpy()].reshape(int(rows.sum()), -1)
            scored = SpectralSignatureDefense.spectral_signature_scores(own)
            scores[rows] = torch.from_numpy(scored).float().squeeze(1)
        flagged = torch.tensor(is_clean) == 0
        return Detected(flagged=flagged, scores=scores, examined=torch.ones_like(flagged))


@record
class Strip:
    """How sure the model stays when other images are laid over a sample.

    Source:
        Gao et al., "STRIP: a defence against trojan attacks on deep neural networks", ACSAC 2019.
        arXiv:1902.06531. ART sums the entropy over the classes, of how each is spread over the
        overlaid images, where the paper takes the entropy over the classes of each image.
    """

    overlays: int = 20
    false_alarms: float = 0.01
    """Share of clean samples that may be flagged."""
    most: int = 2_000
    """At most so many samples are examined, at most half of them poison; ART takes them one by
    one. Rates do not depend on it."""
    reference: int = 500
    """At most so many trusted samples set the threshold and are overlaid."""

    def __call__(self, case: Case, prepared: Prepared, ordinary: Ordinary) -> Detected:
        """Judge some of the samples, drawn at random."""
        with_probabilities = nn.Sequential(ordinary.model, nn.Softmax(dim=1))
        classifier = _classifier(case, prepared, ordinary, with_probabilities)
        defence = STRIP(classifier)(
            num_samples=self.overlays, false_acceptance_rate=self.false_alarms
        )
        predict, entropies = defence.predict_fn, []

        def watched(images: np.ndarray) -> np.ndarray:
            said = predict(images)
            entropies.append(entropy(said, base=2, axis=0).sum() / self.overlays)
            return said

        examined = self._drawn(prepared, case.part("strip"))
        with _isolated(case.part("baseline")):
            defence.mitigate(floats(prepared.split.trusted.inputs[: self.reference]))
            defence.predict_fn = watched
            kept = defence.predict(floats(prepared.poisoned.inputs[examined]))
        flagged = torch.zeros_like(examined)
        flagged[examined] = torch.from_numpy((kept == defence.abstain()).all(axis=1))
        scores = torch.zeros(len(examined))
        scores[examined] = -torch.tensor(entropies[1:]).float()  # the first is of no overlay
        return Detected(flagged=flagged, scores=scores, examined=examined)

    def _drawn(self, prepared: Prepared, seed: Seed) -> Bool[Tensor, " samples"]:
        is_poison = prepared.poisoned.is_poison
        order = torch.randperm(len(is_poison), generator=generator(seed, torch.device("cpu")))
        poison, others = order[is_poison[order]], order[~is_poison[order]]
        poison = poison[: self.most // 2]
        chosen = torch.cat([poison, others[: self.most - len(poison)]])
        return torch.zeros_like(is_poison).index_fill(0, chosen, value=True)


BASELINES: dict[str, Baseline] = {
    "activation-clustering": ActivationClustering(),
    "spectral-signatures": SpectralSignatures(),
    "strip": Strip(),
}


def _features(case: Case, prepared: Prepared, ordinary: Ordinary) -> PyTorchClassifier:
    """Wrap the model without its last layer: these methods look at the last layer that they see."""
    return _classifier(case, prepared, ordinary, ordinary.model[:-1])


def _classifier(
    case: Case, prepared: Prepared, ordinary: Ordinary, model: nn.Module
) -> PyTorchClassifier:
    """Wrap a model for one method: they change what they are given."""
    suspects = prepared.suspects
    shape = (-1, 1, 1) if suspects.is_image else (-1,)
    standard = (
        np.array(ordinary.preprocess.mean, np.float32).reshape(shape),
        np.array(ordinary.preprocess.std, np.float32).reshape(shape),
    )
    return PyTorchClassifier(
        model=model.eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(suspects.inputs.shape[1:]),
        nb_classes=suspects.classes,
        preprocessing=standard,
        device_type="cpu" if case.device.type == "cpu" else "gpu",
    )


def floats(inputs: Tensor) -> np.ndarray:
    """Turn inputs into what ART takes: images in [0, 1], or rows as they are."""
    return (inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs).numpy()


def _largest_share(prepared: Prepared) -> float:
    """The largest poisoned share of a class, at most a third."""
    labels, is_poison = prepared.suspects.labels, prepared.poisoned.is_poison
    shares = [is_poison[labels == label].double().mean().item() for label in labels.unique()]
    return min(1 / 3, max(shares))


@contextlib.contextmanager
def _isolated(seed: Seed) -> Iterator[None]:
    """Seed numpy's global generator, which ART draws from, and restore it; hide progress bars."""
    before = np.random.get_state()  # noqa: NPY002, TID251
    np.random.seed(seed % 2**32)  # noqa: NPY002, TID251
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002, TID251
