"""What is run: configuration, and ``python -m experiments``, which composes and starts it."""
