"""What the proxy costs, measured beside PostgreSQL itself and PgBouncer; Linux only."""
