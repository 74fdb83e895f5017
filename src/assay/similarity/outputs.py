"""How differently do models answer?"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def total_variation(
    logits: Float[Tensor, "models samples classes"],
) -> Float64[Tensor, "models models"]:
    r"""Mean total variation between the answers of every pair of models.

    .. math:: d_{ij} = \frac{1}{2 n} \sum_{x} \| \mathrm{softmax}\, z_i(x)
              - \mathrm{softmax}\, z_j(x) \|_1

    Args:
        logits: of the same samples.

    Returns:
        Symmetric, zero on the diagonal, in [0, 1]: the share of samples that two models answer
        differently, where they draw their answers in the likeliest way to agree.

    Example:
        >>> sure = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]])
        >>> round(total_variation(sure)[0, 1].item(), 4)
        1.0
    """
    answers = logits.double().softmax(-1)
    rows = [(answers - one).abs().sum(-1).mean(-1) / 2 for one in answers]
    return torch.stack(rows).cpu()
