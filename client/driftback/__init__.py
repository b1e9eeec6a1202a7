"""What a service imports to report its messages and to follow its persona. Standard library only."""

from driftback.config.asynchronous import AsyncConfigClient
from driftback.config.client import ConfigClient, NotReadyError
from driftback.config.last_known_good import Active
from driftback.contract import LATENCY_BOUNDS
from driftback.recorder.message import Message, classify
from driftback.recorder.recorder import Recorder
from driftback.recorder.sender import Counts

__version__ = "0.1.0"

latency_bounds = LATENCY_BOUNDS
"""Upper bounds of the latency buckets in seconds, without +Inf."""

__all__ = [
    "Active",
    "AsyncConfigClient",
    "ConfigClient",
    "Counts",
    "Message",
    "NotReadyError",
    "Recorder",
    "classify",
    "latency_bounds",
]
