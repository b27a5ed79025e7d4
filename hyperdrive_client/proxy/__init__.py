"""The PostgreSQL proxy: pools origin connections in transaction mode."""
