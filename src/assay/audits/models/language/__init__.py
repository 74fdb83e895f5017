"""Which of two or more causal language models hides a backdoor?"""

from .audit import TextSettings as TextSettings
from .audit import audit_texts as audit_texts
from .decision import TextDecision as TextDecision
from .found import TextAudit as TextAudit
from .found import TextDelivery as TextDelivery
from .found import TextQuestion as TextQuestion
from .found import TextRecovered as TextRecovered
from .found import TextResult as TextResult
from .found import Tokenizer as Tokenizer
from .preflight import TextPreflight as TextPreflight
from .prompts import Place as Place
from .survey import TextSearch as TextSearch
