"""The painter's next world: drawn, said and read; its network learns, but has no weights yet (painter/README.md)."""
