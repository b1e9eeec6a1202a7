"""What a persona's configuration may be, and how two of them differ."""
