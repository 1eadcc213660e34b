"""Both networks' passes as CUDA graphs: recorded once, then launched as a whole.

A GPU is done with a kernel on small images sooner than Python has launched the next one. Replayed, all kernels of
a pass follow one another without it. Optimisers, moving average and messages between processes stay outside, so
that what a graph holds changes nothing but its own outputs and running statistics.
"""

import logging
from collections.abc import Callable

import torch

from troika.models.gan.pytorch_passes import Found, Passes

_log = logging.getLogger(__name__)
Launch = Callable[[], Found]


class Launcher:
    """Launches passes: recorded ones or, where that was not asked for or has failed, kernel by kernel."""

    def __init__(self, passes: Passes, *, record: bool) -> None:
        self._passes = passes
        self._records = record
        self._launches: dict[bool, tuple[Launch, Launch]] = {}
        self._pool = torch.cuda.graph_pool_handle() if record else None

    def of(self, *, penalised: bool) -> tuple[Launch, Launch]:
        """The discriminator's pass and then the generator's; their outputs hold until the next step's.

        To be asked for when the inputs have been put: a pass that is not known yet is tried out on them first.
        """
        if penalised not in self._launches:
            self._launches[penalised] = self._prepare(penalised)
        return self._launches[penalised]

    def _prepare(self, penalised: bool) -> tuple[Launch, Launch]:
        if self._records:
            stream = torch.cuda.current_stream()
            try:
                return self._record(penalised)
            except RuntimeError as error:
                # What ends a recording complains once more when it is left, and leaves its stream in place.
                torch.cuda.set_stream(stream)
                reason = str(error.__context__ or error).partition("\n")[0]
                _log.warning("without CUDA graphs, since the step cannot be recorded: %s", reason)
                self._records = False
                torch.cuda.synchronize()
        return lambda: self._passes.discriminator(penalised=penalised), self._passes.generator

    def _record(self, penalised: bool) -> tuple[Launch, Launch]:
        self._try_out(penalised)
        passes, graphs = self._passes, (torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[0], pool=self._pool):
            of_discriminator = passes.discriminator(penalised=penalised)
        with torch.cuda.graph(graphs[1], pool=self._pool):
            of_generator = passes.generator()
        return _replay(graphs[0], of_discriminator), _replay(graphs[1], of_generator)

    def _try_out(self, penalised: bool) -> None:
        """Libraries choose and load their kernels at the first run, which cannot be recorded."""
        statistics = self._passes.running_statistics
        before = [one.clone() for one in statistics]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                self._passes.discriminator(penalised=penalised)
                self._passes.generator()
        finally:
            torch.cuda.current_stream().wait_stream(aside)
            for one, old in zip(statistics, before, strict=True):
                one.copy_(old)


def _replay(graph: torch.cuda.CUDAGraph, found: Found) -> Launch:
    def launch() -> Found:
        graph.replay()
        return found

    return launch
