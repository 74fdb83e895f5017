"""The audits as functions of tensors, for notebooks and scripts."""

import torch
from torch import Tensor

from .audits.dataset import DatasetAudit, DatasetSettings
from .audits.dataset import audit_dataset as _audit
from .errors import InputError
from .randomness import Seed
from .samples import Samples


def audit_dataset(
    images: Tensor,
    labels: Tensor,
    *,
    clean: tuple[Tensor, Tensor],
    class_names: tuple[str, ...] | None = None,
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
) -> DatasetAudit:
    """Find the samples of a training set that plant a backdoor.

    Args:
        images: uint8 (samples, channels, height, width), or float32 (samples, dims) for tables and
            features of a frozen encoder.
        labels: integers in [0, classes), one a sample.
        clean: trusted images and labels of the same task, a few hundred or more.
        class_names: one a class; their numbers where None.
        settings: of the method.
        alpha: family-wise false alarm rate, in (0, 1).
        seed: decides everything random.
        device: where to compute, as torch names it.

    Raises:
        InputError: the tensors do not fit the description or each other.
    """
    trusted_images, trusted_labels = clean
    if class_names is None:
        classes = int(torch.cat([labels.flatten(), trusted_labels.flatten()]).max()) + 1
        class_names = tuple(map(str, range(classes)))
    return _audit(
        _samples("images", images, labels, class_names),
        _samples("clean images", trusted_images, trusted_labels, class_names),
        settings=settings,
        alpha=alpha,
        seed=Seed(seed),
        device=torch.device(device),
    )


def _samples(name: str, inputs: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Samples:
    is_image = inputs.ndim == 4 and inputs.dtype == torch.uint8
    if not is_image and not (inputs.ndim == 2 and inputs.is_floating_point()):
        raise InputError(
            f"expected {name} as uint8 (samples, channels, height, width) or floats (samples, "
            f"dims), got {inputs.dtype} {tuple(inputs.shape)}"
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(f"expected integer labels (samples), got {labels.dtype} {labels.shape}")
    values = inputs if is_image else inputs.float()
    if not is_image and not values.isfinite().all():
        raise InputError(f"expected finite {name}, got NaN or infinity")
    return Samples(inputs=values, labels=labels.long().cpu(), class_names=class_names)
