"""The checks: ``nox`` runs those that a change must pass, ``nox -s NAME`` one of them."""

from __future__ import annotations

import shutil

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

# The rooms that decide what every user's bytes become.
COVERED = "hyperdrive_client/protocol/*,hyperdrive_client/proxy/core/*"

# Whose own test suites are run; the sdists are of the same versions.
DRIVERS = ("asyncpg==0.32.0", "psycopg2-binary==2.9.13")
SQLALCHEMY = ("2.0.58", "2.1.9")

# Those whose examples in docs/ are run.
FRAMEWORKS = (
    "alembic>=1.16",
    "celery>=5.4",
    "dbutils>=3.1",
    "django>=5.2",
    "fastapi>=0.121",
    "flask-migrate>=4.1",
    "flask-sqlalchemy>=3.1",
    "flask>=3.1",
    "gevent>=24.11",
    "gunicorn>=23",
    "opentelemetry-instrumentation-dbapi>=0.50b0",
    "opentelemetry-sdk>=1.29",
    "pandas>=2.2",
    "sqlmodel>=0.0.24",
    "uvicorn>=0.34",
    "uwsgi>=2.0.28",
)
# What Python Workers run on, with a Node.js that lets it wait for sockets; from npm.
PYODIDE = ("pyodide@314", "node@24")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, and the branches of protocol/ and proxy/core that they reach."""
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    session.run("pytest", "--cov", "--cov-report=", *session.posargs)
    if not session.posargs:
        session.run("coverage", "report", f"--include={COVERED}", "--fail-under=95")


@nox.session(name="without-parser")
def without_parser(session: nox.Session) -> None:
    """PostgreSQL's parser uninstalled: clients are pooled as ever, and nothing is cached."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pip", "uninstall", "--yes", "postgast")
    where = session.posargs or ("tests/sql", "tests/proxy/cache", "tests/live/test_pooling.py")
    session.run("pytest", *where)


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into docs/_build/html; a warning is an error."""
    session.install("-e", ".[dev]")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "docs", "docs/_build/html")


@nox.session
def demo(session: nox.Session) -> None:
    session.install("-e", ".[demo]")
    session.run("hyperdrive", "demo", *session.posargs)


@nox.session
def frameworks(session: nox.Session) -> None:
    """The examples of the frameworks' pages, with nothing skipped."""
    session.install("-e", ".[dev]", *FRAMEWORKS)
    folder = session.cache_dir.resolve() / "node"
    session.run("npm", "install", "--silent", "--prefix", str(folder), *PYODIDE, external=True)
    environment = {
        "HYPERDRIVE_FRAMEWORKS": "required",
        "HYPERDRIVE_NODE_MODULES": str(folder / "node_modules"),
    }
    arguments = session.posargs or ["tests/frameworks"]
    session.run("pytest", "--timeout=300", *arguments, env=environment)


@nox.session
def wrangler(session: nox.Session) -> None:
    """Workers in wrangler dev by `hyperdrive env`, beside the same without a proxy; needs npm."""
    session.install("-e", ".[demo]")
    folder = session.cache_dir.resolve() / "wrangler"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(f"tests/wrangler/{name}", folder)
    session.run("npm", "install", "--silent", "--prefix", str(folder), external=True)
    with session.chdir("tests"):
        session.run("python", "-m", "wrangler", str(folder / "node_modules"))


@nox.session
def processes(session: nox.Session) -> None:
    """16 processes with 1,000 transactions each and one proxy, which is killed the second time."""
    session.install("-e", ".[demo]")
    for arguments in ((), ("--kill",)):
        session.run("python", "tests/client/many_processes.py", *arguments, *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """The origin broken in every way, figures printed, and more restarts under load."""
    session.install("-e", ".[dev]")
    environment = {"FAULT_RESTARTS": "40"}
    arguments = session.posargs or ["tests/faults"]
    session.run("pytest", "-n", "0", "-s", "--timeout", "600", *arguments, env=environment)


BENCHMARKS = (
    "pgbench",
    "connecting",
    "sessions",
    "bulk",
    "cache",
    "far",
    "rate",
    "idle",
    "starting",
)


@nox.session
def bench(session: nox.Session) -> None:
    """The proxy beside PgBouncer and without either: all programs, or ``-- PROGRAM [OPTION …]``."""
    session.install("-e", ".[demo]")
    if session.posargs:
        name, *options = session.posargs
        session.run("python", f"benchmarks/{name}.py", *options)
        return
    for name in BENCHMARKS:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def conformance(session: nox.Session) -> None:
    """The drivers' own test suites, directly and through the proxy; see docs/conformance.md."""
    run_suites(session, SQLALCHEMY[-1], "asyncpg", "psycopg2", "loads")


@nox.session
@nox.parametrize("sqlalchemy", SQLALCHEMY)
def compliance(session: nox.Session, sqlalchemy: str) -> None:
    """SQLAlchemy's own suites, the same way, and on the library's dialect beside psycopg's."""
    run_suites(session, sqlalchemy, "sqlalchemy-suite", "sqlalchemy-postgresql", "dialects")


def run_suites(session: nox.Session, sqlalchemy: str, *suites: str) -> None:
    """Run ``suites``, or those named on the command line; sdists and results stay in the cache."""
    drivers = (*DRIVERS, f"sqlalchemy[asyncio]=={sqlalchemy}")
    session.install("-e", ".[demo]", *drivers, "distro", "pytest>=8.2", "pytest-timeout>=2.3")
    folder = session.cache_dir.resolve() / "conformance" / sqlalchemy
    command = ["python", "tests/conformance/run.py", f"--folder={folder}"]
    session.run(*command, *(session.posargs or suites))


@nox.session
def isolation(session: nox.Session) -> None:
    """Fifty clients that must not notice each other; ``-- --seed N --requests N``."""
    session.install("-e", ".[demo]")
    with session.chdir("tests"):
        session.run("python", "-m", "isolation", *session.posargs)


@nox.session(name="cache-check")
def cache_check(session: nox.Session) -> None:
    """Whether an answer from the cache is ever wrong; ``-- --seed N --reads N --mode MODE``."""
    session.install("-e", ".[demo]")
    with session.chdir("tests"):
        session.run("python", "-m", "cache_check", *session.posargs)


@nox.session
def drivers(session: nox.Session) -> None:
    """The drivers of several languages through a proxy, case by case; ``-- DRIVER …``."""
    session.install("-e", ".[demo]", "-r", "tests/drivers/python/requirements.txt")
    folder = session.cache_dir.resolve() / "drivers"
    with session.chdir("tests"):
        session.run("python", "-m", "drivers", f"--folder={folder}", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Wrong and random messages from both sides; ``-- --seed N --messages N --inputs N``."""
    session.install("-e", ".[demo]")
    with session.chdir("tests"):
        session.run("python", "-m", "fuzz", *session.posargs)
