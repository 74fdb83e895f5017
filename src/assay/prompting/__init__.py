"""PRIMITIVE: prompt learners on a frozen CLIP, as classifiers of images."""

from .backbone import Backbone as Backbone
from .backbone import Encode as Encode
from .cocoop import CoCoOp as CoCoOp
from .coop import CoOp as CoOp
from .learner import Learner as Learner
from .linearised import Linearised as Linearised
from .maple import MaPLe as MaPLe
from .prompted import Prompted as Prompted
from .vpt import VPT as VPT
from .wording import PHOTO as PHOTO
from .wording import Laid as Laid
from .wording import Position as Position
from .wording import Wording as Wording
from .wording import lay_out as lay_out
from .zero_shot import ZeroShot as ZeroShot

LEARNERS = {
    "zero-shot": ZeroShot,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "vpt": VPT,
    "maple": MaPLe,
}
