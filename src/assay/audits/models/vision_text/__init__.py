"""Which of two or more models of images and texts hides a backdoor?"""

from .audit import PROMPT as PROMPT
from .audit import VisionTextSettings as VisionTextSettings
from .audit import audit_vision_texts as audit_vision_texts
from .found import VisionTextAudit as VisionTextAudit
from .found import VisionTextDelivery as VisionTextDelivery
from .found import VisionTextQuestion as VisionTextQuestion
from .found import VisionTextRecovered as VisionTextRecovered
from .found import VisionTextResult as VisionTextResult
from .preflight import VisionTextPreflight as VisionTextPreflight
from .recovery import VisionTextRecovery as VisionTextRecovery
from .respond import PICTURE as PICTURE
from .survey import PictureSearch as PictureSearch
