"""What the next cycle starts from: the masks of one cycle on the weights of some moment.

Axes: none of their own; states and masks are keyed as in state_dict.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from oracle.errors import MaskError
from oracle.pruning.masks import Masks, masked

Rewind = Literal["none", "weights", "reinit"]


def parent_state(
    rewind: Rewind,
    masks: Masks,
    *,
    final: Mapping[str, Tensor] | None = None,
    early: Mapping[str, Tensor] | None = None,
    fresh: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """State dict of a cycle's parent, parameters and buffers, with exact zeros where the masks prune; always a copy.

    - "none" (learning-rate rewinding, Renda et al. 2020): `final`, the state at the end of the last cycle.
    - "weights" (weight rewinding, Frankle & Carbin 2019; IMP): `early`, the state at the rewind step of cycle 0.
      Survivors, biases, batch norms and their running statistics all go back; only the masks are of the last cycle.
    - "reinit": `fresh`, the state of a newly drawn network.

    MaskError for an unknown way, or if the state that it needs is not given or does not fit the masks.
    """
    states = {"none": ("final", final), "weights": ("early", early), "reinit": ("fresh", fresh)}
    if rewind not in states:
        raise MaskError(f"rewind {rewind!r} is not known; the known ones are {', '.join(states)}")
    name, state = states[rewind]
    if state is None:
        raise MaskError(f"rewind {rewind!r} starts from the state {name!r}, which was not given")
    return masked(state, masks)
