"""Imports the SDK once, without its warning to prefer dashboards v2, which Grafana before 12 cannot load."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Prefer using dashboardv2.Dashboard", DeprecationWarning)
    import grafana.build  # noqa: F401
