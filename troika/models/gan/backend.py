"""What the training loop needs from a framework (Backend), and from processes that train together (Team)."""

from typing import Protocol, TypeVar

from troika.models.contract import Images, Labels, Latents
from troika.models.gan.batches import Indices
from troika.models.gan.figures import Rows
from troika.models.gan.layers import Weights
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper

_Value = TypeVar("_Value")


class Team(Protocol):
    """The processes that train together; each works on its share of every batch."""

    @property
    def rank(self) -> int:
        """Of this process: 0, 1, 2, ..."""

    @property
    def size(self) -> int:
        """How many there are."""

    def from_first(self, value: _Value) -> _Value:
        """What the first process gave, in all of them."""

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""

    def mean(self, rows: Rows) -> Rows:
        """The mean over the processes."""


class Alone:
    """A team of one."""

    rank, size = 0, 1

    def from_first(self, value: _Value) -> _Value:
        """See Team."""
        return value

    def any(self, flag: bool) -> bool:
        """See Team."""
        return flag

    def mean(self, rows: Rows) -> Rows:
        """See Team."""
        return rows


class Backend(Protocol):
    """A framework's networks and optimisers, and one step of them."""

    @property
    def team(self) -> Team:
        """The processes that train together."""

    def step(self, number: int, indices: Indices, latents: Latents, hyper: Hyper) -> None:
        """Step 0, 1, 2, ...: discriminator, then generator, then the moving average.

        Args:
            number: the only source of randomness beside the seed, as for dropout.
            indices: this process's share of the batch, (B,), into the training split.
            latents: float32 (B, latent_size).
            hyper: this step's numbers.
        """

    def announce(self, indices: Indices) -> None:
        """Say which images the next step asks for; it may begin to read them."""

    def figures(self) -> Rows:
        """What the last steps have noted down: step n in row n % REPORT_EVERY, columns as in figures.py."""

    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """Images (N, H, W, C) of the moving average."""

    def average(self) -> Weights:
        """The moving average's weights."""

    def state(self) -> Tensors:
        """All that the next step and the next report depend on, by name.

        `figures`; `generator.`, `discriminator.` and `average.` before weights; `generator_adam.first.`,
        `generator_adam.second.`, `discriminator_adam.first.` and `.second.` before the moments of trained ones.
        """

    def restore(self, tensors: Tensors, step: int) -> None:
        """Go back to a state after `step` steps."""
