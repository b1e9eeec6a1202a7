"""What the exporter says about itself, through prometheus_client."""

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from driftback import __version__
from exporter import catalogue
from exporter.catalogue import Metric
from exporter.storage.journal import Fault
from exporter.storage.series import SeriesTable

# Nothing reads `_created` lines; `catalogue.CREATED` says it for each label set.
disable_created_metrics()  # type: ignore[no-untyped-call]


class SelfMonitoring:
    """The exporter's own metrics, each known value of a label at 0 from the start."""

    def __init__(self, registry: CollectorRegistry, error_codes: tuple[str, ...]) -> None:
        def counter(metric: Metric) -> Counter:
            return Counter(metric.name, metric.help, metric.labels, registry=registry)

        def gauge(metric: Metric) -> Gauge:
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)

        pushes = counter(catalogue.PUSHES)
        self._rejected = counter(catalogue.REJECTED)
        self._evicted = counter(catalogue.EVICTED)
        for kind in (catalogue.CONNECTION, catalogue.SCRAPE):
            self._evicted.labels(kind)
        self._dropped = counter(catalogue.CLIENT_DROPPED)
        self._series = gauge(catalogue.SERIES)
        self._limit = gauge(catalogue.SERIES_LIMIT)
        self._policy_reloaded = gauge(catalogue.POLICY_RELOADED)
        self._tokens_reloaded = gauge(catalogue.TOKENS_RELOADED)
        for reloaded in (self._policy_reloaded, self._tokens_reloaded):
            reloaded.set(1)
        self._clock_jumps = counter(catalogue.CLOCK_JUMPS)
        self._by_result = {result: pushes.labels(result) for result in catalogue.PUSH_RESULTS}
        for reason in (*error_codes, *catalogue.OVERFLOWS):
            self._rejected.labels(reason)
        self._recoveries = counter(catalogue.RECOVERIES)
        for fault in Fault:
            self._recoveries.labels(fault.value)
        for direction in catalogue.JUMPS:
            self._clock_jumps.labels(direction)
        gauge(catalogue.BUILD_INFO).labels(__version__).set(1)

    def watch(self, table: SeriesTable) -> None:
        """Say which label sets to count."""
        self._series.set_function(lambda: len(table))

    def limit(self, label_sets: int) -> None:
        """Say how many label sets there may be."""
        self._limit.set(label_sets)

    def policy_reloaded(self, successful: bool) -> None:
        """Say whether the last reload of the label policy succeeded."""
        self._policy_reloaded.set(successful)

    def recovered(self, fault: Fault) -> None:
        """Count a start that found a fault in the journal."""
        self._recoveries.labels(fault.value).inc()

    def clock_jumped(self, direction: str) -> None:
        """Count a jump of the system's clock; `direction` is one of `catalogue.JUMPS`."""
        self._clock_jumps.labels(direction).inc()

    def tokens_reloaded(self, successful: bool) -> None:
        """Say whether the last reload of the tokens succeeded."""
        self._tokens_reloaded.set(successful)

    def pushed(self, result: str) -> None:
        """Count a push or a batch of observations; `result` is one of `catalogue.PUSH_RESULTS`."""
        self._by_result[result].inc()

    def rejected(self, reason: str) -> None:
        """Count a refused request by its error code, or a label set made `other` by the bound reached."""
        self._rejected.labels(reason).inc()

    def evicted(self, kind: str) -> None:
        """Count what was ended to make room: `catalogue.CONNECTION` or `catalogue.SCRAPE`."""
        self._evicted.labels(kind).inc()

    def dropped(self, messages: int) -> None:
        """Count messages that a client dropped before it could send them."""
        if messages:
            self._dropped.inc(messages)
