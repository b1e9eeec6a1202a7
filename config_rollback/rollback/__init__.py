"""Publication, rollback and acceptance: decisions, and the transaction that audits them."""
