"""Who calls: signed tokens, static bearer tokens, browser sessions, and protection of forms."""
