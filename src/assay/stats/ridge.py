"""Ridge regression of one group, with the spread of all and leave-one-out predictions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.errors import InputError

_PART = 8192  # samples that are whitened at once
_BLOCK = 1024  # features that are multiplied at once


class PooledRidge:
    r"""Predict marks of a group from features; what features vary by, all groups tell.

    Groups are centred by themselves. With few samples of a group and many features, the covariance
    within groups, of all of them together, is known far better than that of one group.

    .. math:: s_i = r \frac{\hat y_i - h_i y_i}{1 - h_i}, \quad
              h_i = r x_i^\top (X^\top X + \rho n I)^{-1} x_i, \quad r = \frac{m}{m - 1}

    where y is the mark less the mean of the group, of m samples, and 0 for the samples of other
    groups; r takes the sample itself out of that mean.

    Source:
        Leave-one-out in closed form: Allen, "The relationship between variable selection and data
        augmentation and a method for prediction", Technometrics 1974 (PRESS). Covariance shared by
        groups: Friedman, "Regularized discriminant analysis", JASA 1989.

    Example:
        >>> columns = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2], [1.3], [1.4]])
        >>> marks = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # the third is wrong
        >>> ridge = PooledRidge([columns], torch.zeros(8, dtype=torch.int64), penalty=0.01)
        >>> [mark > 0 for mark in ridge(marks, torch.tensor([0]))[:, 0].tolist()]
        [False, False, False, True, True, True, True, True]
    """

    def __init__(
        self,
        features: Sequence[Float[Tensor, "samples _"]],
        groups: Int64[Tensor, " samples"],
        *,
        penalty: float = 1.0,
    ) -> None:
        """Factor the covariance once; every regression is then a matter of inner products.

        Args:
            features: in blocks of columns, finite; they are standardised, and a constant column
                counts for nothing.
            groups: numbers from 0, one a sample; kept as `groups`.
            penalty: rho, a sample; 1 shrinks a direction with the variance of one feature to half.

        Raises:
            InputError: a feature is not finite.
        """
        x = torch.cat([block.float() for block in features], dim=1)
        if not x.isfinite().all():
            raise InputError("expected finite features, got NaN or infinity")
        sums = x.new_zeros(int(groups.max()) + 1, x.shape[1]).index_add_(0, groups, x)
        means = sums / groups.bincount()[:, None].clamp(min=1)
        for part, rows in zip(x.split(_PART), groups.split(_PART), strict=True):
            part.sub_(means[rows])  # in place: there may be gigabytes of them
        x /= x.std(0, correction=0).clamp(min=1e-6)
        spread = _gram(x).double()
        spread.diagonal().add_(penalty * len(x))
        self.groups = groups
        self._features, self._lower = x, torch.linalg.cholesky(spread)
        lower = self._lower.float()
        whitened = (
            torch.linalg.solve_triangular(lower, part.T, upper=False) for part in x.split(_PART)
        )
        counts = groups.bincount()[groups]
        self._left_out = (counts / (counts - 1).clamp(min=1))[:, None]
        leverage = torch.cat([part.square().sum(0) for part in whitened])
        self._leverage = self._left_out * leverage[:, None]

    def __call__(
        self, marks: Float[Tensor, " samples"], asked: Int64[Tensor, " asked"]
    ) -> Float[Tensor, "samples asked"]:
        """Predict every sample from the marks of one group, of several groups at once.

        Args:
            marks: finite; of the groups that are asked.
            asked: groups.

        Returns:
            By sample and group asked. Higher is more like the samples of the group with high marks,
            on the scale of the marks. Samples of the group are predicted from its others, which
            outvote a mark that is wrong.
        """
        own = self.groups[:, None] == asked
        means = (marks @ own.float()) / own.sum(0).clamp(min=1)
        away = torch.where(own, marks[:, None] - means, 0.0)
        pulled = (away.T @ self._features).T.double()
        predicted = self._features @ torch.cholesky_solve(pulled, self._lower).float()
        others = self._left_out * (predicted - self._leverage * away) / (1 - self._leverage)
        return torch.where(own, others, predicted)


def _gram(x: Float[Tensor, "samples dims"]) -> Float[Tensor, "dims dims"]:
    """Multiply columns with columns, each pair of blocks once."""
    gram = x.new_empty(x.shape[1], x.shape[1])
    for i in range(0, len(gram), _BLOCK):
        for j in range(i, len(gram), _BLOCK):
            rows, columns = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
            product = x[:, rows].T @ x[:, columns]
            gram[rows, columns], gram[columns, rows] = product, product.T
    return gram
