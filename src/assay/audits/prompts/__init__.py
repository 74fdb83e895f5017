"""CLIP inspection: does a prompt-tuned CLIP hide a backdoor?"""

from .audit import PromptsSettings as PromptsSettings
from .audit import audit_prompts as audit_prompts
from .decision import Decision as Decision
from .deliver import deliver as deliver
from .found import PromptDelivery as PromptDelivery
from .found import PromptsAudit as PromptsAudit
from .found import Question as Question
from .found import Recovered as Recovered
from .pools import Source as Source
from .pools import beside_mosaics as beside_mosaics
from .pools import made as made
from .preflight import Preflight as Preflight
from .published import Inspected as Inspected
from .published import PublishedInspection as PublishedInspection
from .survey import KINDS as KINDS
from .survey import Elimination as Elimination
from .survey import Kind as Kind
