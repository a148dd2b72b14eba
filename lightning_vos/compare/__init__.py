"""Checkpoints side by side under one protocol: evaluated by the command line, read back, shown as tables and a page."""
