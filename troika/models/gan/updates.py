"""How both networks' steps hang together: one after the other, or at once. Knows no framework."""

from troika.models.gan.settings import GANSettings

LEAST_SLOPE = 1e-30
"""Of the discriminator's loss at a score, where its quotient with the generator's is taken: an image that the
discriminator is surer of no longer moves the generator."""


def passes_of(settings: GANSettings, *, compares_pairs: bool) -> int:
    """Of a batch through the discriminator in one step: real and generated images, and those again."""
    if settings.updates == "simultaneous":
        return 2
    return 4 if compares_pairs else 3
