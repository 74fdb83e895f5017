"""Known attacks and scenarios, to measure the audits; never imported by `assay`."""
