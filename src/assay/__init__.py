"""Audits outsourced machine learning for hidden backdoors."""
