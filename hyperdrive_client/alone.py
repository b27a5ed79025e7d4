"""Whether this process runs a proxy and nothing else. Who starts it says so before all imports."""

IS_ALONE = False
"""Nobody here catches psycopg's exceptions, whose import takes as long as all else."""
