"""What the rules are worth: `python -m rules_report` prints and writes build/rules.json."""
