"""Whether the judge finds what is wrong, and nothing else."""

from __future__ import annotations

import pytest

from .judge import Judge, Reading, Transaction, Write


def kinds(wrong: list[str]) -> list[str]:
    return [each.partition(":")[0] for each in wrong]


def write(judge: Judge, *names: str, at: float, proxy: int | None = 0) -> Write:
    """Sent at ``at``, answered one second later."""
    made = judge.begin(names, proxy)
    judge.commits(made, at)
    judge.committed(made, at + 1)
    return made


def read(at: float, proxy: int | None = 0, *, origin: bool = False, **seen: int) -> Reading:
    """Sent at ``at`` and answered half a second later."""
    return Reading(proxy, at, at + 0.5, seen, from_origin=origin)


class TestAutocommit:
    def test_what_was_committed_before_the_question_must_be_seen(self) -> None:
        judge = Judge()
        write(judge, "a", at=10)
        assert kinds(judge.read(read(11.5, a=0))) == ["stale"]
        assert not judge.read(read(11.5, a=1))

    def test_while_the_writer_has_no_answer_both_are_right(self) -> None:
        judge = Judge()
        write(judge, "a", at=10)
        assert not judge.read(read(10.9, a=0))
        assert not judge.read(read(10.9, a=1))

    def test_others_commits_are_due_after_the_bound(self) -> None:
        judge = Judge(bound=1)
        write(judge, "a", at=10, proxy=None)
        assert not judge.read(read(11.9, a=0))
        assert kinds(judge.read(read(12.1, a=0))) == ["stale beyond the bound"]
        assert kinds(judge.read(read(11.9, None, a=0))) == ["stale"]

    def test_a_late_commit_does_not_excuse_an_old_one(self) -> None:
        judge = Judge(bound=1)
        write(judge, "a", at=10, proxy=None)
        write(judge, "a", at=12, proxy=None)
        assert kinds(judge.read(read(13.5, a=0))) == ["stale beyond the bound"]
        assert not judge.read(read(13.5, a=1))

    def test_ddl_has_a_bound_of_its_own(self) -> None:
        judge = Judge(bound=1, ddl_bound=3)
        made = judge.begin(["a"], None, is_ddl=True)
        judge.commits(made, 10)
        judge.committed(made, 11)
        assert not judge.read(read(13.5, a=0))
        assert judge.read(read(14.5, a=0))

    def test_what_nobody_wrote_is_wrong(self) -> None:
        judge = Judge()
        write(judge, "a", at=10)
        assert kinds(judge.read(read(12, a=7))) == ["never written"]
        assert kinds(judge.read(read(12, b=1))) == ["never written"]

    def test_what_was_rolled_back_is_wrong_before_and_after(self) -> None:
        judge = Judge()
        made = judge.begin(["a"], 0)
        assert kinds(judge.read(read(12, a=1))) == ["not committed"]
        judge.commits(made, 11)
        assert not judge.read(read(12, a=1))
        assert judge.failed(made)
        assert kinds(judge.read(read(12, a=1))) == ["rolled back"]

    def test_an_unknown_outcome_allows_both_until_it_is_seen(self) -> None:
        judge = Judge()
        made = judge.begin(["a"], 0)
        judge.commits(made, 10)
        judge.lost(made, 11)
        assert not judge.read(read(20, a=0))
        assert not judge.read(read(21, a=1))
        assert judge.read(read(22, a=0))

    def test_a_pipelined_read_sees_the_write_before_it(self) -> None:
        judge = Judge()
        made = judge.begin(["a"], 0)
        judge.commits(made, 10)
        judge.committed(made, 11)
        reading = read(10, a=0)._replace(after={"a": 1})
        assert kinds(judge.read(reading)) == ["own write not seen"]

    def test_parts_of_one_write_are_seen_together(self) -> None:
        judge = Judge(bound=5)
        write(judge, "a", "b", at=10, proxy=None)
        assert kinds(judge.read(read(11, a=1, b=0))) == ["torn"]

    def test_there_is_a_moment_at_which_all_were_the_newest(self) -> None:
        judge = Judge(bound=50)
        write(judge, "a", at=10, proxy=None)
        write(judge, "b", at=20, proxy=None)
        assert kinds(judge.read(read(25, a=0, b=2))) == ["torn"]
        assert not judge.read(read(25, a=1, b=0))

    def test_a_sum_is_of_known_versions(self) -> None:
        judge = Judge()
        write(judge, "a", at=10)
        write(judge, "b", at=20)
        for total, expected in ((3, []), (1, ["stale"]), (4, ["never written"])):
            reading = Reading(0, 30, 31, {}, [(("a", "b"), total)])
            assert kinds(judge.read(reading)) == expected


class TestReadCommitted:
    def test_never_older_than_an_earlier_answer(self) -> None:
        judge = Judge(bound=50)
        write(judge, "a", at=10, proxy=None)
        transaction = Transaction(snapshot=False)
        assert not judge.read(read(12, a=1), transaction)
        assert kinds(judge.read(read(13, a=0), transaction))[0] == "older than an earlier answer"

    def test_also_where_another_table_says_so(self) -> None:
        judge = Judge(bound=50)
        write(judge, "a", at=10, proxy=None)
        write(judge, "b", at=20, proxy=None)
        transaction = Transaction(snapshot=False)
        assert not judge.read(read(22, b=2), transaction)
        assert kinds(judge.read(read(23, a=0), transaction)) == ["older than an earlier answer"]

    def test_also_where_one_write_made_both(self) -> None:
        judge = Judge(bound=50)
        write(judge, "a", "b", at=10, proxy=None)
        transaction = Transaction(snapshot=False)
        assert not judge.read(read(12, b=1), transaction)
        assert kinds(judge.read(read(13, a=0), transaction)) == ["older than an earlier answer"]

    def test_the_origins_answer_is_of_its_time(self) -> None:
        judge = Judge(bound=50)
        write(judge, "a", at=10, proxy=None)
        transaction = Transaction(snapshot=False)
        assert not judge.read(read(12, b=0), transaction)
        assert not judge.read(read(12, a=0), transaction)
        assert not judge.read(read(12, b=0, origin=True), transaction)
        assert kinds(judge.read(read(13, a=0), transaction)) == ["older than an earlier answer"]

    def test_own_writes_are_seen_at_once_and_exactly(self) -> None:
        judge = Judge()
        made = judge.begin(["a"], 0)
        transaction = Transaction(snapshot=False, own={"a": made.version})
        assert not judge.read(read(12, a=1), transaction)
        assert kinds(judge.read(read(12, a=0), transaction)) == ["own write not seen"]


class TestSnapshots:
    @pytest.mark.parametrize("second", ["a", "b"])
    def test_all_answers_are_of_one_moment(self, second: str) -> None:
        judge = Judge()
        write(judge, "a", "b", at=10)
        transaction = Transaction(snapshot=True)
        assert not judge.read(read(10.5, a=0), transaction)
        assert not judge.read(read(20, **{second: 0}), transaction)
        assert kinds(judge.read(read(21, **{second: 1}), transaction))[0] == "two snapshots"

    def test_that_moment_is_not_before_the_first_statement(self) -> None:
        judge = Judge()
        write(judge, "a", at=10)
        assert kinds(judge.read(read(12, a=0), Transaction(snapshot=True))) == ["stale"]
