"""The page for pandas: its programs, what they leave in the database, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Page

    from .conftest import Project

FRAMEWORKS = ("pandas",)

# Reads a table of 80 MB in chunks, and prints how far its memory has grown, in MB.
BIG = """
import resource
import pandas as pd
from sqlalchemy import create_engine

engine = create_engine("hyperdrive://HYPERDRIVE")
query = "SELECT n, repeat('x', 1000) AS text FROM generate_series(1, {rows}) AS n"


def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def read(limit):
    rows = 0
    with engine.connect().execution_options(stream_results={stream}) as connection:
        for chunk in pd.read_sql(query + limit, connection, chunksize=1000):
            rows += len(chunk)
    return rows


read(" WHERE n <= 2000")
before = used()
assert read("") == {rows}
print(used() - before)
engine.dispose()
"""


@pytest.fixture(autouse=True)
def written(project: Project, page: Callable[[str], Page]) -> None:
    page("docs/pandas.md").write_files(project.folder)


def test_what_the_report_writes_is_there_and_read_back(project: Project) -> None:
    printed = project.run("python report.py")
    [(rows, total, first)] = project.rows(
        "SELECT count(*), round(sum(value)), min(at)::timestamptz AT TIME ZONE 'UTC' FROM measured"
    )
    assert rows == 50_000
    assert str(first) == "2026-01-01 00:00:00"
    assert printed.splitlines()[-1] == f"{total:.0f}"
    assert [line.split()[0] for line in printed.splitlines()[2:-1]] == [f"s{n}" for n in range(10)]
    types = project.rows(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_name = 'measured' ORDER BY ordinal_position"
    )
    assert [kind for _, kind in types] == ["text", "timestamp with time zone", "double precision"]


def test_copy_writes_nulls_as_such(project: Project) -> None:
    project.run("python copy_in.py")
    assert project.rows("SELECT * FROM copied ORDER BY 1") == [("a", 1.5), ("b", None), ("c", 3.0)]


def test_a_failure_leaves_nothing_of_a_frame(project: Project) -> None:
    project.write(
        "broken.py",
        "import pandas as pd\n"
        "from sqlalchemy import Integer, create_engine\n"
        'frame = pd.DataFrame({"n": [*range(3000), "no number"]})\n'
        'engine = create_engine("hyperdrive://HYPERDRIVE")\n'
        'frame.to_sql("half", engine, index=False, chunksize=500, dtype={"n": Integer})\n',
    )
    done = project.try_to_run("python broken.py")
    assert "invalid input syntax for type integer" in done.stderr
    assert project.rows("SELECT count(*) FROM pg_class WHERE relname = 'half'") == [(0,)]


def test_a_stream_is_not_held_in_memory(project: Project) -> None:
    rows = 80_000
    grown = {}
    for stream in False, True:
        project.write("big.py", BIG.format(rows=rows, stream=stream))
        grown[stream] = int(project.run("python big.py"))
    assert grown[False] > 80
    assert grown[True] < 20
