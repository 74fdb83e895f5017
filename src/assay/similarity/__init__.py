"""How alike are two models?"""

from .cka import linear_cka as linear_cka
from .outputs import total_variation as total_variation
from .updates import Updates as Updates
from .updates import update_distances as update_distances
from .zest import Zest as Zest
from .zest import zest_distances as zest_distances
