"""Ridge regression of one group, with the spread of all and leave-one-out predictions."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.errors import InputError

_PART = 8192  # samples that are whitened at once


class PooledRidge:
    r"""Predict marks of one group from features; what features vary by, all groups tell.

    Groups are centred by themselves. With few samples of a group and many features, the covariance
    within groups, of all of them together, is known far better than that of one group.

    .. math:: s_i = \frac{\hat y_i - h_i y_i}{1 - h_i}, \quad
              h_i = x_i^\top (X^\top X + \rho n I)^{-1} x_i

    where y is the mark less the mean of the group, and 0 for the samples of other groups.

    Source:
        Leave-one-out in closed form: Allen, "The relationship between variable selection and data
        augmentation and a method for prediction", Technometrics 1974 (PRESS). Covariance shared by
        groups: Friedman, "Regularized discriminant analysis", JASA 1989.

    Example:
        >>> columns = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2], [1.3], [1.4]])
        >>> marks = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # the third is wrong
        >>> ridge = PooledRidge(columns, torch.zeros(8, dtype=torch.int64), penalty=0.01)
        >>> [mark > 0 for mark in ridge(torch.ones(8, dtype=torch.bool), marks).tolist()]
        [False, False, False, True, True, True, True, True]
    """

    def __init__(
        self,
        features: Float[Tensor, "samples dims"],
        groups: Int64[Tensor, " samples"],
        *,
        penalty: float = 1.0,
    ) -> None:
        """Whiten the features once; every regression is then a matter of inner products.

        Args:
            features: finite; they are standardised, and a constant column counts for nothing.
            groups: numbers from 0, one a sample.
            penalty: rho, a sample; 1 shrinks a direction with the variance of one feature to half.

        Raises:
            InputError: a feature is not finite.
        """
        if not features.isfinite().all():
            raise InputError("expected finite features, got NaN or infinity")
        x = features.float()
        sums = x.new_zeros(int(groups.max()) + 1, x.shape[1]).index_add_(0, groups, x)
        x = x - (sums / groups.bincount()[:, None].clamp(min=1))[groups]
        x /= x.std(0, correction=0).clamp(min=1e-6)
        spread = (x.T @ x).double()
        spread.diagonal().add_(penalty * len(x))
        lower = torch.linalg.cholesky(spread)
        identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        whiten = torch.linalg.solve_triangular(lower, identity, upper=False).T.float()
        for part in x.split(_PART):  # in place: there may be a gigabyte of them
            part.copy_(part @ whiten)
        self._whitened = x
        self._leverage = x.square().sum(1)

    def __call__(
        self, group: Bool[Tensor, " samples"], marks: Float[Tensor, " own"]
    ) -> Float[Tensor, " samples"]:
        """Predict every sample; those of the group from the marks of its others.

        Args:
            group: a whole one.
            marks: of its samples, finite.

        Returns:
            Higher is more like the samples with high marks, on the scale of the marks; where a mark
            is wrong, the others outvote it.
        """
        own, away = self._whitened[group], marks - marks.mean()
        predicted = self._whitened @ (own.T @ away)
        leverage = self._leverage[group]
        predicted[group] = (predicted[group] - leverage * away) / (1 - leverage)
        return predicted
