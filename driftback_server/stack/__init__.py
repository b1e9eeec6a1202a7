"""The native stack: every process of Driftback on one machine, without containers."""
