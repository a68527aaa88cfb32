"""What may vary: grids of max_lr, ranges of SILO's parameters, and the experiments that ship as presets."""
