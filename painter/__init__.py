"""A small world in which a Chinese prompt visibly paints: for demonstration and measurement, not shipped."""
