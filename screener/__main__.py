"""`python -m screener`: the command line."""

from __future__ import annotations

from screener.cli import main

main()
