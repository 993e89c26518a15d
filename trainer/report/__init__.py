"""The evaluate stage: losses by zone and retrieval beside baselines, and the report's files."""
