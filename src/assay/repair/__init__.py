"""Cleansed data sets, and the proof that cleansing helped."""

from .cleanse import Selection as Selection
from .cleanse import cleanse as cleanse
from .prove import Proof as Proof
from .prove import Retrained as Retrained
from .prove import Trigger as Trigger
from .prove import fresh_network as fresh_network
from .prove import held_out as held_out
from .prove import prove as prove
