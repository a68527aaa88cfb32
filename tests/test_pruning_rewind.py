"""What a cycle's parent is made of."""

import pytest
import torch

from oracle.errors import MaskError
from oracle.pruning.rewind import parent_state

MASKS = {"w": torch.tensor([True, False, True])}


def state(number):
    return {"w": torch.full((3,), number), "b": torch.full((2,), number), "bn.running_mean": torch.full((2,), number)}


STATES = {"final": state(1.0), "early": state(2.0), "fresh": state(3.0)}


@pytest.mark.parametrize(("rewind", "number"), [("none", 1.0), ("weights", 2.0), ("reinit", 3.0)])
def test_parent_is_one_moment_under_the_mask_buffers_included(rewind, number):
    parent = parent_state(rewind, MASKS, **STATES)
    assert parent["w"].tolist() == [number, 0.0, number]
    assert parent["b"].tolist() == parent["bn.running_mean"].tolist() == [number, number]
    for value in parent.values():
        value.zero_()
    assert all(value.all() for states in STATES.values() for value in states.values())


def test_missing_state_and_unknown_way_are_refused():
    with pytest.raises(MaskError, match="'weights' starts from the state 'early'"):
        parent_state("weights", MASKS, final=STATES["final"])
    with pytest.raises(MaskError, match=r"'back'.*none, weights, reinit"):
        parent_state("back", MASKS, **STATES)
    with pytest.raises(MaskError, match="'w'"):
        parent_state("none", MASKS, final={"b": torch.ones(2)})
