"""Training of many recipes on one cache, side by side in one table."""
