"""The command line: parses, calls one function, prints."""

from .app import main as main
