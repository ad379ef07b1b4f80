"""Which of several codecs does the next batch: the one that is expected to be done with it first.

For a batch of n pages codec k is expected to take n x t_k, t_k being how long a page of its own took of late, from the
moment its batch was ready: waiting for credit and for the queue, the device's own time, and what its CPU did of it are
all in it. One that was never measured is expected to take no time, so each is tried, twice: the first batch opens its
device, which is no measurement of any other. A measurement moves t_k by an eighth
of the difference; and every batch that goes elsewhere takes a 256th off it, so that one that was slow because its queue
was full is tried again after some hundred batches, at the price of one slow batch.

Shares are the scheduler's: whoever is chosen still asks for credit, and where it is denied the CPU does the work in
that codec's format, which counts as that codec's time.
"""

import time
from collections.abc import Callable, Sequence

from typing_extensions import Buffer

from pipeline.codecs.codec import Codec, CodecId, OneByOne
from pipeline.memory.pages import PAGE_BYTES

_LEARNING, _AGEING = 8, 256


class ChoosingCodec(OneByOne):
    """Encodes only. `codec_id` is that of the batch encoded last; before the first, that of the first codec."""

    def __init__(self, codecs: Sequence[Codec], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._codecs = codecs
        self._clock = clock
        #: Per page, a 1024th of a nanosecond; 0: never measured.
        self._expected = [0] * len(codecs)
        self._opened = [False] * len(codecs)
        self.codec_id: CodecId = codecs[0].codec_id

    def encode(self, pages: memoryview) -> Sequence[Buffer | None]:
        """See `codecs.codec.Codec`."""
        chosen = min(range(len(self._codecs)), key=self._expected.__getitem__)
        codec = self._codecs[chosen]
        began_ns = self._clock()
        streams = codec.encode(pages)
        self._learn(chosen, self._clock() - began_ns, max(1, len(pages) // PAGE_BYTES))
        self.codec_id = codec.codec_id
        return streams

    def _learn(self, chosen: int, took_ns: int, pages: int) -> None:
        measured = max(1, (took_ns << 10) // pages)
        for index, known in enumerate(self._expected):
            if not self._opened[chosen]:
                break
            if index != chosen:
                self._expected[index] = known - known // _AGEING
            elif known:
                self._expected[index] = max(1, known + (measured - known) // _LEARNING)
            else:
                self._expected[index] = measured
        self._opened[chosen] = True
