"""Image datasets: the folder contract, the sources they come from, the checks they pass."""
