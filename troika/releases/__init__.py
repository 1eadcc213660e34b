"""From an approved bundle to a Git pointer: bundle, store, release."""
