"""Encoders without classes: groups of clean images stand for them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import behind
from assay.randomness import Seed, child
from assay.records import record
from assay.results import Forgetful, Progress, Store, silent
from assay.samples import Rows, Samples
from assay.triggers import Objective, Patches, Search, Signals, Warps

from .audit import ModelsSettings, audit_models
from .decision import Decision
from .found import Delivery, ModelsAudit
from .respond import named
from .survey import Kind

_TEMPERATURE = 0.1
_BATCH = 256

_ALIKE = Search(objective=Objective.ALIKE)
ENCODER_KINDS = (
    Kind(
        family=Signals(strength=0.036),
        search=_ALIKE,
        by_source=False,
        between=0.15,
        within=0.3,
        weight=0.25,
    ),
    Kind(
        family=Signals(strength=0.1, knots=12),
        search=_ALIKE,
        by_source=False,
        between=0.2,
        within=0.4,
        weight=0.25,
    ),
    Kind(
        family=Patches(area=0.012),
        search=_ALIKE,
        by_source=False,
        between=0.3,
        within=0.5,
        weight=0.25,
    ),
    Kind(
        family=Warps(strength=0.06),
        search=Search(noise=0.0, objective=Objective.ALIKE),
        by_source=False,
        between=0.08,
        within=0.15,
        weight=0.25,
    ),
)
"""What is searched on encoders: a trigger that was planted makes whatever an encoder sees look
alike, also where the attacker's reference lies between groups. Spreads are about twice those of
honest SimCLR encoders of CIFAR-10 (four) and digits (three), and the larger of both: most planted
triggers exceed them by far. `benchmarks/encoders_audit.py` measures that, and MODELS.md names the
pairs that were held out: BadEncoder's were flagged in 24 of 25 pairs, honest ones in none of 55.
With margins to groups in their place 2 of 8 were found."""

ENCODER_SETTINGS = ModelsSettings(
    kinds=ENCODER_KINDS, decision=Decision(narrowest=1.0, together_share=0.0)
)
"""How encoders are audited; what the benchmarks measure. Most candidates of an honest encoder fail
and are near 0, and few succeed: the deviation of most says too little, so it may widen the usual
spread, and not narrow it. Kinds are not taken together: one by itself showed all that was found."""


@record
class Groups:
    """How clean images without labels are divided into groups that stand for classes."""

    count: int = 10
    rounds: int = 5
    """Starts of k-means; the best one counts."""


def audit_encoders(
    deliveries: Sequence[Delivery],
    images: Rows,
    *,
    groups: Groups = Groups(),  # noqa: B008  frozen
    settings: ModelsSettings = ENCODER_SETTINGS,
    alpha: float = 0.05,
    seed: Seed,
    device: torch.device,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> ModelsAudit:
    """Find the encoder that answers to a trigger which the others do not know.

    The clean images are divided into groups that all encoders agree on as far as they can: by
    k-means on their features side by side, each scaled to length 1. An encoder then is a classifier
    by the nearest group, and triggers that lead to each group are searched as on a classifier. What
    is compared is how alike they make the answers to different images: a planted trigger pulls the
    features of any image to those of the attacker's reference, wherever between groups that lies.

    Args:
        deliveries: two or more encoders; their outputs are features (samples, dims), or an object
            with `image_embeds`, `pooler_output` or `last_hidden_state`.
        images: clean, uint8 (samples, channels, height, width), without labels.
        groups: how to divide them.
        settings: of the method.
        alpha: family-wise false alarm rate, in (0, 1).
        seed: decides everything random.
        device: where to compute.
        progress: as of `audit_models`.
        store: what to resume from.

    Returns:
        As `audit_models`; targets are groups, and accuracy is how often an encoder alone finds the
        group that all of them agreed on.

    Raises:
        InputError: as `audit_models`, or outputs that are no features, or fewer images than 20 a
            group.

    Source:
        The goal of the trigger, that features of triggered images fall together while the
        reference's stay: cross-examination.
    Differs from the source:
        Groups make that a question with candidates, which can be compared between encoders as
        classes can, whatever the dimensions of their features; the search on each encoder is its
        own, without a term for the other.
    """
    divided = grouped(deliveries, images, groups=groups, seed=seed, device=device)
    return audit_models(
        divided.classifiers,
        divided.clean,
        settings=settings,
        alpha=alpha,
        seed=seed,
        device=device,
        progress=progress,
        store=store,
    )


@record
class Grouped:
    """Encoders as classifiers of groups of clean images."""

    clean: Samples
    """The images; their labels are groups."""
    classifiers: tuple[Delivery, ...]
    """In the order of the deliveries; each model is a `Nearest`."""


def grouped(
    deliveries: Sequence[Delivery],
    images: Rows,
    *,
    groups: Groups,
    seed: Seed,
    device: torch.device,
) -> Grouped:
    """Divide clean images into groups that the encoders agree on as far as they can.

    Args:
        deliveries: as of `audit_encoders`.
        images: as of `audit_encoders`.
        groups: how to divide them.
        seed: of the audit; with the same one the groups are the same.
        device: where to compute.

    Raises:
        InputError: outputs that are no features, or fewer images than 20 a group.
    """
    if len(images) < 20 * groups.count:
        raise InputError(
            f"expected at least {20 * groups.count} clean images for {groups.count} groups, got "
            f"{len(images)}"
        )
    features = [_features(delivery, images, device) for delivery in deliveries]
    divided = KMeans(
        groups.count, n_init=groups.rounds, random_state=child(seed, "groups") % 2**32
    ).fit(torch.cat(features, dim=1).numpy())
    labels = torch.from_numpy(divided.labels_).long()
    return Grouped(
        clean=Samples(
            inputs=images,
            labels=labels,
            class_names=tuple(f"group {index}" for index in range(groups.count)),
        ),
        classifiers=tuple(
            Delivery(
                name=delivery.name,
                model=Nearest(delivery.model, _middles(own, labels, groups.count)),
                preprocess=delivery.preprocess,
                digest=delivery.digest,
            )
            for delivery, own in zip(deliveries, features, strict=True)
        ),
    )


class Nearest(nn.Module):
    """An encoder as a classifier: logits are cosines to the middles of groups, over 0.1."""

    middles: Tensor

    def __init__(self, encoder: nn.Module, middles: Float[Tensor, "groups dims"]) -> None:
        super().__init__()
        self.features = Features(encoder)
        self.register_buffer("middles", middles)

    def forward(self, images: Tensor) -> Float[Tensor, "batch groups"]:
        """Compare the features of standardised images with the middles."""
        return self.features(images) @ self.middles.T / _TEMPERATURE


class Features(nn.Module):
    """An encoder whose outputs are features of length 1, whatever it returns."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Float[Tensor, "batch dims"]:
        """Take the features of standardised images."""
        return features_of(self.encoder(images))


def features_of(output: object) -> Float[Tensor, "batch dims"]:
    """Take the features out of what an encoder returns, scaled to length 1.

    Raises:
        InputError: there are none.
    """
    found = output
    for name in ("image_embeds", "pooler_output", "last_hidden_state"):
        if isinstance(found, Tensor):
            break
        found = getattr(output, name, None)
    if not isinstance(found, Tensor) or found.ndim < 2:
        raise InputError("expected features (samples, dims) of an encoder, or an image model's")
    if found.ndim == 3:
        found = found.mean(1)  # over tokens
    return nn.functional.normalize(found.flatten(1).float(), dim=1)


def _features(
    delivery: Delivery, images: Rows, device: torch.device
) -> Float[Tensor, "images dims"]:
    model = Features(delivery.model).to(device).eval()
    respond = named(delivery.name, behind(model, delivery.preprocess, device))
    with torch.no_grad():
        parts = [
            respond(images[first : first + _BATCH].to(device).float() / 255).cpu()
            for first in range(0, len(images), _BATCH)
        ]
    found = torch.cat(parts)
    if not found.isfinite().all():
        raise InputError(f"expected finite features, {delivery.name!r} gives NaN or infinity")
    return found


def _middles(
    features: Float[Tensor, "images dims"], labels: Tensor, count: int
) -> Float[Tensor, "groups dims"]:
    middles = torch.stack([features[labels == index].mean(0) for index in range(count)])
    return nn.functional.normalize(middles, dim=1)
