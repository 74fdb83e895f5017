"""The one training loop: data on the device, mixed precision, one-cycle schedule."""

from .augment import Augment as Augment
from .behind import Behind as Behind
from .behind import answers as answers
from .behind import behind as behind
from .feed import Batch as Batch
from .feed import Feed as Feed
from .feed import Preprocess as Preprocess
from .feed import feed as feed
from .focus import EVERYTHING as EVERYTHING
from .focus import Focus as Focus
from .loop import Precision as Precision
from .loop import Recipe as Recipe
from .loop import Step as Step
from .loop import fit as fit
from .loop import fit_in_parts as fit_in_parts
from .loop import logits_of as logits_of
from .loop import one_cycle as one_cycle
from .loop import sgd as sgd
from .loop import train as train
