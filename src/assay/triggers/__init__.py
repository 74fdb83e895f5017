"""Trigger families: what can be put on an image, shared by attacks and audits, and its search."""

from .additive import Additive as Additive
from .blend import Blend as Blend
from .families import Bounded as Bounded
from .families import Canvases as Canvases
from .families import Family as Family
from .families import Parameters as Parameters
from .families import Patches as Patches
from .families import Signals as Signals
from .families import Trigger as Trigger
from .families import Warps as Warps
from .frequency import Frequency as Frequency
from .patch import Patch as Patch
from .reflection import Reflection as Reflection
from .search import ANY as ANY
from .search import Candidates as Candidates
from .search import Objective as Objective
from .search import Pool as Pool
from .search import Respond as Respond
from .search import Search as Search
from .search import coarse_products as coarse_products
from .search import disturbed as disturbed
from .search import margin_of as margin_of
from .search import margins as margins
from .warp import Warp as Warp

TRIGGERS = {
    "additive": Additive,
    "blend": Blend,
    "frequency": Frequency,
    "patch": Patch,
    "reflection": Reflection,
    "warp": Warp,
}
FAMILIES = {
    "additive": Signals,
    "canvas": Canvases,
    "noise": Bounded,
    "patch": Patches,
    "warp": Warps,
}
