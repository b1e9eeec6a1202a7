"""What speaks for or against a version: the alerts inbox and the KPIs."""
