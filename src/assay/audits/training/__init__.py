"""Replicated training: which provider left the recipe?"""

from .comparing import CKA as CKA
from .comparing import LAYERS as LAYERS
from .comparing import OUTPUTS as OUTPUTS
from .comparing import UPDATE as UPDATE
from .comparing import ZEST as ZEST
from .comparing import compare as compare
from .decision import Decision as Decision
from .decision import Yardstick as Yardstick
from .evidence import Comparison as Comparison
from .evidence import Delivery as Delivery
from .evidence import Fault as Fault
from .found import Agreement as Agreement
from .found import FaultyDelivery as FaultyDelivery
from .found import ProviderResult as ProviderResult
from .found import Question as Question
from .found import Tier as Tier
from .found import TrainingAudit as TrainingAudit
from .judging import TrainingSettings as TrainingSettings
from .judging import judge_training as judge_training
from .planning import Replication as Replication
from .planning import plan_replication as plan_replication
from .tolerance import Profile as Profile
from .tolerance import Tolerance as Tolerance
from .tolerance import make_profile as make_profile
from .tolerance import parse_profile as parse_profile
from .tolerance import profile_document as profile_document
