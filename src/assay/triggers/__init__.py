"""Trigger families: what can be put on an image, shared by attacks and audits."""

from .additive import Additive as Additive
from .blend import Blend as Blend
from .frequency import Frequency as Frequency
from .patch import Patch as Patch
from .reflection import Reflection as Reflection
from .warp import Warp as Warp

TRIGGERS = {
    "additive": Additive,
    "blend": Blend,
    "frequency": Frequency,
    "patch": Patch,
    "reflection": Reflection,
    "warp": Warp,
}
