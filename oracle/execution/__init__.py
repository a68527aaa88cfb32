"""Who trains a cycle's packs: this process, or a Ray cluster."""
