"""Commands that print the tables quoted in README and docs. Run one as `python -m benchmarks.<name>`."""
