"""The audits as functions of tensors, for notebooks and scripts."""

import copy
import pathlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .audits.dataset import DatasetAudit, DatasetSettings
from .audits.dataset import audit_dataset as _audit
from .audits.models import ENCODER_SETTINGS, Delivery, Groups, ModelsAudit, ModelsSettings
from .audits.models import audit_encoders as _audit_encoders
from .audits.models import audit_models as _audit_models
from .audits.prompts import PromptsAudit, PromptsSettings, beside_mosaics, deliver
from .audits.prompts import audit_prompts as _audit_prompts
from .audits.training import TrainingAudit
from .errors import InputError
from .fitting import Preprocess
from .prompting import Prompted
from .randomness import Seed, child
from .results import silent
from .samples import Rows, Samples
from .storage.found import MAX_CLASSES


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
        class_names = _numbered(labels, trusted_labels)
    return _audit(
        _samples("images", images, labels, class_names),
        _samples("clean images", trusted_images, trusted_labels, class_names),
        settings=settings,
        alpha=alpha,
        seed=Seed(seed),
        device=torch.device(device),
    )


def audit_models(
    models: Sequence[nn.Module],
    *,
    clean: tuple[Tensor, Tensor],
    preprocess: Preprocess | Sequence[Preprocess | None] | None = None,
    names: Sequence[str] | None = None,
    class_names: tuple[str, ...] | None = None,
    settings: ModelsSettings = ModelsSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
) -> ModelsAudit:
    """Find the model that hides a backdoor, among two or more that do the same task.

    Args:
        models: classifiers of images; their outputs are logits, or an object with `logits`. They
            are copied, and stay as they are.
        clean: trusted images, uint8 (samples, channels, height, width), and their labels; 200 or
            more.
        preprocess: what the models want to be done to images: one for all or one a model; measured
            on the clean images where None.
        names: one a model; `model 0` and so on where None.
        class_names: one a class, in the order of the models' outputs; numbers where None.
        settings: of the method.
        alpha: family-wise false alarm rate, in (0, 1).
        seed: decides everything random.
        device: where to compute, as torch names it.

    Returns:
        A verdict for each model, with the trigger recovered from it.

    Raises:
        InputError: the arguments do not fit the description or each other.
    """
    images, labels = clean
    if class_names is None:
        class_names = _numbered(labels)
    trusted = _samples("clean images", images, labels, class_names)
    return _audit_models(
        _deliveries(models, names, preprocess, trusted.inputs),
        trusted,
        settings=settings,
        alpha=alpha,
        seed=Seed(seed),
        device=torch.device(device),
    )


def audit_encoders(
    encoders: Sequence[nn.Module],
    images: Tensor,
    *,
    preprocess: Preprocess | Sequence[Preprocess | None] | None = None,
    names: Sequence[str] | None = None,
    groups: Groups = Groups(),  # noqa: B008  frozen
    settings: ModelsSettings = ENCODER_SETTINGS,
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
) -> ModelsAudit:
    """Find the encoder that hides a backdoor, among two or more; no labels are needed.

    Args:
        encoders: modules of images; their outputs are features (samples, dims), or an object with
            `image_embeds`, `pooler_output` or `last_hidden_state`. They are copied, and stay as
            they are.
        images: trusted, uint8 (samples, channels, height, width); 20 or more a group.
        preprocess: as of `audit_models`.
        names: as of `audit_models`.
        groups: of clean images with similar features, which stand for classes.
        settings: of the method.
        alpha: family-wise false alarm rate, in (0, 1).
        seed: decides everything random.
        device: where to compute, as torch names it.

    Returns:
        As `audit_models`; targets are groups, and accuracy is how often an encoder alone finds the
        group that all of them agreed on.

    Raises:
        InputError: the arguments do not fit the description or each other.
    """
    trusted = _samples("images", images, torch.zeros(len(images)).long(), ("image",))
    if not trusted.is_image:
        raise InputError(f"expected images of four dimensions, got shape {tuple(images.shape)}")
    return _audit_encoders(
        _deliveries(encoders, names, preprocess, trusted.inputs),
        trusted.inputs,
        groups=groups,
        settings=settings,
        alpha=alpha,
        seed=Seed(seed),
        device=torch.device(device),
    )


def audit_training(
    plan: str | pathlib.Path,
    *,
    out: str | pathlib.Path,
    key: str | pathlib.Path | None = None,
    alpha: float = 0.05,
    device: str = "cpu",
    poll_s: float = 2.0,
) -> TrainingAudit:
    """Let the providers of a plan train, and judge what they deliver.

    Args:
        plan: path of a `PLAN.yaml`, as docs/training.md has it.
        out: the run folder: new, or one that was interrupted, which is then gone on with. It
            holds the ledger, and at the end `artifacts/checkpoint.safetensors`.
        key: file of the client's private key, made where there is none; a key of the run's own if
            it is None.
        alpha: how often, at most, honest providers may be flagged; in (0, 1).
        device: where outputs are compared.
        poll_s: seconds between looks into the mailboxes; it waits for answers until the plan's
            deadlines.

    Raises:
        UsageError: something that the plan names is not there, or the run is completed.
        InputError: the plan or what it names cannot be used.
    """
    from .providers.loading import load_plan  # mailboxes and keys are for this audit alone
    from .providers.training import TrainingJob, train_in
    from .storage.runs import RunFolder

    path = pathlib.Path(plan).absolute()
    loaded = load_plan(path)
    job = TrainingJob(
        plan=str(path),
        key=None if key is None else str(pathlib.Path(key).absolute()),
        seed=loaded.plan.seed,
        device=device,
        alpha=alpha,
        poll=poll_s,
    )
    with RunFolder.begin(
        pathlib.Path(out),
        audit="training",
        settings=job.settings(),
        seed=loaded.plan.seed,
        inputs=loaded.inputs,
    ) as run:
        audit = train_in(run, job, loaded, silent).audit
        run.write_findings(audit.findings)
    return audit


def audit_prompts(
    model: Prompted,
    classes: Sequence[str] | None = None,
    *,
    ood: Tensor,
    clean: tuple[Tensor, Tensor] | None = None,
    settings: PromptsSettings = PromptsSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
) -> PromptsAudit:
    """Find out whether a prompt that somebody tuned for a CLIP hides a backdoor.

    Args:
        model: a CLIP with its prompt learner, as `assay.storage.prompt_learners.load_prompted`
            reads it. It is copied, and stays as it is.
        classes: names, in the order of the logits; the model's own where None.
        ood: images of other things than the classes, uint8 (images, 3, height, width) at the
            backbone's size; 200 or more.
        clean: trusted images of the task and their labels, for the preflight; may be missing. Of 50
            or more of them, mosaics are searched too: they look more like the task.
        settings: of the method.
        alpha: family-wise false alarm rate, in (0, 1).
        seed: decides everything random.
        device: where to compute, as torch names it.

    Returns:
        The verdict, and the recovered trigger.

    Raises:
        InputError: the arguments do not fit the description or each other.
    """
    names = tuple(model.class_names if classes is None else classes)
    if ood.ndim != 4 or ood.dtype != torch.uint8 or ood.shape[1] != 3:
        raise InputError(
            f"expected ood as uint8 (images, 3, height, width), got {ood.dtype} {tuple(ood.shape)}"
        )
    place = torch.device(device)
    prompted = copy.deepcopy(model).to(place).eval().requires_grad_(requires_grad=False)
    return _audit_prompts(
        deliver(prompted),
        names,
        beside_mosaics(
            "ood",
            ood,
            None if clean is None else clean[0],
            most=settings.most_images,
            seed=child(Seed(seed), "pool"),
        ),
        clean=None if clean is None else _samples("clean images", *clean, names),
        settings=settings,
        alpha=alpha,
        seed=Seed(seed),
        device=place,
    )


def _deliveries(
    models: Sequence[nn.Module],
    names: Sequence[str] | None,
    preprocess: Preprocess | Sequence[Preprocess | None] | None,
    images: Rows,
) -> list[Delivery]:
    called = [f"model {i}" for i in range(len(models))] if names is None else list(names)
    if preprocess is None or isinstance(preprocess, Preprocess):
        wanted = [preprocess] * len(models)
    else:
        wanted = list(preprocess)
    if not len(called) == len(wanted) == len(models) or len(set(called)) < len(called):
        raise InputError(
            f"expected {len(models)} different names and as many preprocessings, as there are "
            f"models, got {called} and {len(wanted)}"
        )
    return [
        Delivery(
            name=name,
            model=copy.deepcopy(model),
            preprocess=wants or Preprocess.of(images),
            digest={},
        )
        for model, name, wants in zip(models, called, wanted, strict=True)
    ]


def _numbered(*labels: Tensor) -> tuple[str, ...]:
    """Name classes after their numbers, up to the largest label."""
    for each in labels:
        if not isinstance(each, Tensor) or each.is_floating_point() or each.is_complex():
            kind = each.dtype if isinstance(each, Tensor) else type(each).__name__
            raise InputError(f"expected labels as a torch tensor of integers, got {kind}")
    largest = max((int(each.max()) for each in labels if each.numel()), default=-1)
    if not -1 <= largest < MAX_CLASSES:
        raise InputError(f"expected labels in [0, {MAX_CLASSES}), got up to {largest}")
    return tuple(map(str, range(largest + 1)))


def _samples(name: str, inputs: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Samples:
    for each in (inputs, labels):
        if not isinstance(each, Tensor):
            raise InputError(
                f"expected {name} and labels as torch tensors, got {type(each).__name__}; "
                "torch.from_numpy makes one of an array"
            )
    is_image = inputs.ndim == 4 and inputs.dtype == torch.uint8
    if not is_image and not (inputs.ndim == 2 and inputs.is_floating_point()):
        raise InputError(
            f"expected {name} as uint8 (samples, channels, height, width) or floats (samples, "
            f"dims), got {inputs.dtype} {tuple(inputs.shape)}"
        )
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"expected integer labels (samples), got {labels.dtype} {labels.shape}")
    values = inputs if is_image else inputs.float()
    if not is_image and not values.isfinite().all():
        raise InputError(f"expected finite {name}, got NaN or infinity")
    return Samples(inputs=values, labels=labels.long().cpu(), class_names=class_names)
