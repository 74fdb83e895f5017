"""Which of two or more causal language models hides a backdoor?"""

from .audit import TextSettings as TextSettings
from .audit import audit_texts as audit_texts
from .audit import common_beginning as common_beginning
from .decision import TextDecision as TextDecision
from .found import TextAudit as TextAudit
from .found import TextDelivery as TextDelivery
from .found import TextQuestion as TextQuestion
from .found import TextRecovered as TextRecovered
from .found import TextResult as TextResult
from .found import Tokenizer as Tokenizer
from .preflight import TextPreflight as TextPreflight
from .preflight import copied as copied
from .preflight import differing as differing
from .preflight import overlap as overlap
from .preflight import texts_of as texts_of
from .prompts import Place as Place
from .survey import TextSearch as TextSearch
