"""Which of two or more delivered models hides a backdoor?"""

from .audit import ModelsSettings as ModelsSettings
from .audit import audit_models as audit_models
from .audit import effort as effort
from .decision import Decision as Decision
from .encoders import ENCODER_SETTINGS as ENCODER_SETTINGS
from .encoders import Groups as Groups
from .encoders import Nearest as Nearest
from .encoders import audit_encoders as audit_encoders
from .encoders import grouped as grouped
from .found import Delivery as Delivery
from .found import ModelResult as ModelResult
from .found import ModelsAudit as ModelsAudit
from .found import Question as Question
from .found import Recovered as Recovered
from .preflight import Preflight as Preflight
from .recovery import Recovery as Recovery
from .sensitivity import FineTuning as FineTuning
from .survey import KINDS as KINDS
from .survey import Elimination as Elimination
from .survey import Kind as Kind
