"""The emit library: import this in a chat or guidance service. Standard library only."""

from exporter.catalogue import LATENCY_BOUNDS
from exporter.client.message import Message, classify
from exporter.client.recorder import Recorder
from exporter.client.sender import Counts

latency_bounds = LATENCY_BOUNDS
"""Upper bounds of the latency buckets in seconds, without +Inf."""

__all__ = ["Counts", "Message", "Recorder", "classify", "latency_bounds"]
