"""Judge every sample of a class by what the samples that stand out have in common."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.stats import PooledRidge

_TIMES = 3
_SPREAD = 0.9  # quantile of the samples of other classes, which marks are measured by
_MOST = 2.0  # mark
_OWN = 0.5  # weight of a sample's own score
_TURNS = 30  # of the power iteration


def outvoted(
    ridge: PooledRidge, own: Bool[Tensor, " samples"], scores: Float[Tensor, " own"]
) -> Float[Tensor, " own"]:
    """Score samples of one class by the direction in which the high ones differ from the others.

    A confused model says of each sample by itself how well it still fits. Some clean samples still
    fit, and some poison no longer does; but the poison shares the direction that the trigger takes
    in the features. A linear regression of the scores finds it, and judges every sample by the
    scores of all others; twice more it learns from what it said. What a sample's own score says
    beside that is added. AUROC within the class, before and after (CIFAR-10, seeds 0 and 1,
    exploratory; design note 0007): Adaptive-Patch .971 and .940 -> .997 and .993, k-way .903 and
    .862 -> .971 and .973, WaNet .953 -> .982, Blend .981 -> 1.000.

    Args:
        ridge: of the features of all samples, in groups by label.
        own: the class.
        scores: of its samples, 0 at the median of trusted samples and 1 at their 99th percentile.

    Returns:
        Higher is more like the high ones; 1 is the standard deviation in other classes. Which
        samples are calibration does not enter, so that they stay exchangeable with the clean
        suspects of their class.
    """
    marks = scores.clamp(0, _MOST)
    for _ in range(_TIMES):
        said = ridge(own, marks)
        others = said[~own]
        marks = (said[own] / torch.quantile(others, _SPREAD).clamp(min=1e-6)).clamp(0, _MOST)
    return said[own] / others.std(correction=0).clamp(min=1e-6) + _OWN * scores.clamp(-_OWN, 3)


def leading(
    features: Float[Tensor, "samples dims"], labels: Int64[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """Place the samples of each class along what their features vary by most.

    That is the first principal component; which way round, nothing tells. Power iteration from the
    farthest sample, so that nothing is random.

    Args:
        features: of the model before it was confused.
        labels: classes.

    Returns:
        0 at the median of a class, and 1 at two standard deviations from there.

    Source:
        Poison shows in this direction: Tran, Li and Madry, "Spectral Signatures in Backdoor
        Attacks", NeurIPS 2018. Here it only starts a vote (`outvoted`), and a test decides.
    """
    along = torch.zeros(len(labels))
    spread = features.std(0, correction=0).clamp(min=1e-6)
    for label in labels.unique().tolist():
        own = labels == label
        centred = (features[own] - features[own].mean(0)) / spread
        axis = centred[centred.square().sum(1).argmax()]
        for _ in range(_TURNS):
            axis = centred.T @ (centred @ axis)
            axis = axis / axis.norm().clamp(min=1e-6)
        placed = centred @ axis
        along[own] = (placed - placed.median()) / (2 * placed.std(correction=0)).clamp(min=1e-6)
    return along
