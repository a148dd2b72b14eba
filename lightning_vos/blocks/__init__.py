"""Network parts that at least two methods share."""
