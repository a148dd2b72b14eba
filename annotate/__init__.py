"""A page in the browser that paints first masks, propagates them and mends what went wrong: ``python -m annotate``."""
