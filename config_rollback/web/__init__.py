"""HTTP: the API, the pages, and what they share."""
