"""Logits, penultimate features and maps of any model, and what images show without one; batched."""

from .appearance import appearance as appearance
from .extract import Outputs as Outputs
from .extract import check_answers as check_answers
from .extract import extract as extract
from .extract import logits as logits
from .layers import DEPTHS as DEPTHS
from .layers import activations as activations
