"""Audits outsourced machine learning for hidden backdoors."""

from .api import audit_dataset as audit_dataset
from .api import audit_encoders as audit_encoders
from .api import audit_models as audit_models
from .api import audit_prompts as audit_prompts
from .api import audit_training as audit_training
