"""What the rules are worth: `python -m benchmarks.rules_report` prints and writes build/rules.json."""
