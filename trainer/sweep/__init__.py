"""Many recipes on one cache, and one table of them. It runs the stages of the rooms before it, and hands on the
table."""
