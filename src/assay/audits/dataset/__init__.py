"""Which samples of a training set are poisoned?"""

from .audit import audit_dataset as audit_dataset
from .audit import foresee as foresee
from .confusion import Confusion as Confusion
from .decision import Decision as Decision
from .found import ClassResult as ClassResult
from .found import DatasetAudit as DatasetAudit
from .preflight import Preflight as Preflight
from .published import PublishedConfusionTraining as PublishedConfusionTraining
from .refinement import Refinement as Refinement
from .settings import DatasetSettings as DatasetSettings
