"""The four audits; they know nothing of each other."""
