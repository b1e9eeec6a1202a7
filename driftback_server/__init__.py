"""The command `driftback` and the native stack."""
