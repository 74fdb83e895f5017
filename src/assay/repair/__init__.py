"""Cleansed data sets and repaired models, and the proof that it helped."""

from .cleanse import Selection as Selection
from .cleanse import cleanse as cleanse
from .prove import Proof as Proof
from .prove import Retrained as Retrained
from .prove import Trigger as Trigger
from .prove import held_out as held_out
from .prove import prove as prove
from .realign import Realigning as Realigning
from .realign import realign as realign
from .retune import Retuned as Retuned
from .retune import Retuning as Retuning
from .retune import filled as filled
from .retune import retune as retune
from .unlearn import Measured as Measured
from .unlearn import Planted as Planted
from .unlearn import Repaired as Repaired
from .unlearn import Unlearning as Unlearning
from .unlearn import measured as measured
from .unlearn import unlearn as unlearn
