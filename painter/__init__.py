"""A small world in which a Chinese prompt visibly paints: demonstration and measurement, never shipped with the nodes."""
