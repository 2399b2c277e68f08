"""What a stored state says about the device that it came from."""

import torch

from rap.train.state import _run_as_here


def stepped(lr: float, *, capturable: bool) -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=lr, capturable=capturable)
    if not capturable:
        weight.grad = torch.ones(3)
        optimizer.step()
    return optimizer


def test_how_steps_are_run_stays_that_of_this_device() -> None:
    """Rates and moments come from the file, what a CUDA graph needs does not."""
    stored = stepped(0.5, capturable=False).state_dict()
    here = stepped(0.1, capturable=True)
    here.load_state_dict(_run_as_here(stored, here))
    assert here.param_groups[0]["capturable"]
    assert here.param_groups[0]["lr"] == 0.5
    assert len(here.state) == 1
    assert not stored["param_groups"][0]["capturable"]
