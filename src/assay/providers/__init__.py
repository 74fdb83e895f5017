"""Replicated training's mailbox: bundles out, weights in, and the ledger of both."""
