"""From an Oracle's intervals to SILO's curve, with a proof of how many intervals any curve can hit."""
