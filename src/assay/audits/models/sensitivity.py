"""Fine-tuning sensitivity: does a recovered trigger survive some training on clean samples?"""

import copy
from collections.abc import Iterator

import torch

from assay.fitting import Batch, Behind, Precision, behind, fit
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.triggers import Pool, Respond

from .found import Delivery


@record
class FineTuning:
    """Train a copy of a model on clean samples for a few steps.

    Source:
        The second module of cross-examination.
    Differs from the source:
        The paper reports that a planted trigger loses its grip by at least 20 %. Tuned on clean
        samples under their own labels, 12 poisoned models of CIFAR-10 lost 3 to 59 points of
        ASR, honest ones up to 36 (`benchmarks/models_audit.py`): no threshold parts them, so it is
        shown, and no verdict rests on it.
    """

    steps: int = 60
    batch_size: int = 64
    rate: float = 0.02

    def __call__(self, delivery: Delivery, pool: Pool, *, seed: Seed) -> Respond:
        """Return the tuned copy; the model itself stays as it is."""
        device, preprocess = pool.images.device, delivery.preprocess
        tuned = copy.deepcopy(delivery.model).requires_grad_(requires_grad=True)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=self.rate, momentum=0.9)
        random = generator(seed, device)

        def batches() -> Iterator[Batch]:
            for _ in range(self.steps):
                rows = torch.randint(
                    len(pool.labels), (self.batch_size,), generator=random, device=device
                )
                yield Batch(inputs=pool.images[rows], targets=pool.labels[rows], rows=rows.cpu())

        with isolated(child(seed, "dropout"), device):
            fit(Behind(tuned, preprocess, device), batches(), optimizer, precision=Precision.FP32)
        return behind(tuned.eval(), preprocess, device)
