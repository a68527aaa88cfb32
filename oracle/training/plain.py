"""A step in plain PyTorch, one candidate at a time: what every faster way must equal."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oracle.data.images import Batch
from oracle.experiment import Experiment
from oracle.training.optimizers import OPTIMIZERS


class PlainTrainer:
    """One candidate (C = 1) trained by torch.optim. See `loop.Trainer`."""

    num_candidates = 1

    def __init__(
        self, network: nn.Module, masks: Mapping[str, Tensor], experiment: Experiment, device: torch.device
    ) -> None:
        """`network` holds the parent's weights and becomes the candidate's own."""
        self._experiment = experiment
        self._network = network.to(device)
        if device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in network.modules()):
            self._network = self._network.to(memory_format=torch.channels_last)  # 1.4 times faster than the default
        settings = experiment.optimizer
        self._optimizer = OPTIMIZERS[settings.name].make(settings, list(network.parameters()))
        parameters = dict(network.named_parameters())
        self._masked = [parameters[name] for name in masks]
        self._masks = [masks[name].to(device, parameters[name].dtype) for name in masks]
        self._half = experiment.training.precision == "bf16"
        self._device = device

    def step(self, batch: Batch, rates: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """See `Trainer.step`."""
        self._network.train()
        images, labels = batch
        self._optimizer.param_groups[0]["lr"] = float(rates[0])
        self._optimizer.zero_grad()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            loss = F.cross_entropy(self._network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        # A pruned weight is 0 and its gradient is made 0: decay, momentum and moments then leave it at exactly 0.
        pairs = zip(self._masked, self._masks, strict=True)
        held = [(parameter.grad, mask) for parameter, mask in pairs if parameter.grad is not None]
        torch._foreach_mul_([grad for grad, _ in held], [mask for _, mask in held])
        if self._experiment.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._experiment.training.clip_norm)
        self._optimizer.step()
        return loss.detach()[None]

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Bool[Tensor, "C B"], Float[Tensor, "C"]]:
        """See `Trainer.score`."""
        self._network.eval()
        images, labels = batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            logits = self._network(images)
        return (logits.argmax(1) == labels)[None], F.cross_entropy(logits.double(), labels, reduction="sum")[None]

    def states(self) -> dict[str, Float[Tensor, "C ..."]]:
        """See `Trainer.states`."""
        state = self._network.state_dict()
        return {
            name: value.detach().clone(memory_format=torch.contiguous_format)[None] for name, value in state.items()
        }

    def state(self) -> dict[str, Tensor]:
        """See `Trainer.state`."""
        remembered = {
            f"optimizer/{index}/{name}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for name, value in entry.items()
            if value is not None
        }
        return {f"network/{name}": value for name, value in self.states().items()} | remembered

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainer.restore`."""
        prefix = "network/"
        self._network.load_state_dict(
            {name.removeprefix(prefix): value[0] for name, value in state.items() if name.startswith(prefix)}
        )
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer/"):
                _, index, entry = name.split("/")
                entries.setdefault(int(index), {})[entry] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": entries})
