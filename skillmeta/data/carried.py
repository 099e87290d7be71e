"""What an actor takes along from training, to adapt with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Carried(nn.Module):
    """Tensors by name, such as R decisions of training, which `buffers()` gives in this order; what they hold at first is given."""

    def __init__(self, parts: Mapping[str, Tensor]):
        super().__init__()
        for name, part in parts.items():
            self.register_buffer(name, part)

    def take(self, *parts: Tensor) -> None:
        for own, new in zip(self.buffers(), parts, strict=True):
            own.copy_(new)
