"""The learning-rate schedules that are compared, by their shape, as the paper's tables call them.

Cosine is in its Table 7; REX is in none.
"""

from collections.abc import Mapping

LABELS: Mapping[str, str] = {
    "constant": "constant",
    "decay": "decay",
    "cyclical": "cyclical",
    "warmup": "warm-up",
    "cosine": "cosine",
    "rex": "REX",
}
