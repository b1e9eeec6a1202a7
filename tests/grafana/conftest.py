"""The SDK warns that it prefers dashboards v2, which Grafana before 12 cannot load: import it once, unwarned."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Prefer using dashboardv2.Dashboard", DeprecationWarning)
    import grafana.build  # noqa: F401
