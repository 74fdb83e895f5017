"""Replicated training: which provider left the recipe?"""

from .evidence import Comparison as Comparison
from .evidence import Delivery as Delivery
from .evidence import Fault as Fault
