"""``python -m experiments.annotate``: a page in the browser that paints first masks, propagates and mends them."""
