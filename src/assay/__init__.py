"""Audits outsourced machine learning for hidden backdoors."""

from .api import audit_dataset as audit_dataset
