"""One folder per method; no method imports another."""
