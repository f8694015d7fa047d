"""The log: its lines in each format, what must not stand in it, and lines that are alike."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from tierfs.admin.logs import JournalLines, JsonLines, PlainLines, is_journal
from tierfs.admin.similar import Similar
from tierfs.core.reports import EventReport, happened
from tierfs.core.secrets import masked
from tierfs.engine.journal import fields_of


def record(text: str, *args: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("tierfs.x", level, __file__, 1, text, args, None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("GET /k?X-Amz-Signature=0a1b&X-Amz-Date=2026", "GET /k?X-Amz-Signature=***&X-Amz-Date=2026"),
        ("X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&x", "X-Amz-Credential=***&x"),
        ("X-Amz-Security-Token: FwoGZXIvYXdzE", "X-Amz-Security-Token: ***"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AKIA,", "Authorization: ***,"),
        ("'Authorization': 'Bearer abcdef0123456789'", "'Authorization': ***'"),
        ("got Bearer abcdef0123456789", "got Bearer ***"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        ("the key AKIAIOSFODNN7EXAMPLE does not exist", "the key *** does not exist"),
        ("proxy http://me:pass@host:3128/x failed", "proxy http://***@host:3128/x failed"),
        ("secret=short", "secret=short"),
        ("a/b.log: hot to archiving: older than 1d", "a/b.log: hot to archiving: older than 1d"),
        ("s3://bucket/prefix?x=1 with @ in it", "s3://bucket/prefix?x=1 with @ in it"),
    ],
)
def test_secrets_are_masked(text: str, without: str) -> None:
    assert masked(text) == without


def test_known_secrets_are_masked_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a long and secret thing")
    for formatter in (PlainLines(), JournalLines(), JsonLines()):
        line = formatter.format(record("it says %s", "a long and secret thing"))
        assert "secret thing" not in line
        assert "it says ***" in line


def test_a_line_is_one_line_whatever_a_file_is_called() -> None:
    line = PlainLines().format(record("%s is new", "a\n2026-11-22 ERROR forged\x1b[2J\r"))
    assert line.endswith(" WARNING a\\x0a2026-11-22 ERROR forged\\x1b[2J\\x0d is new")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_the_journal_is_told_how_bad_a_line_is(level: int, priority: int) -> None:
    assert JournalLines().format(record("text", level=level)) == f"<{priority}>text"


def test_each_line_of_a_traceback_has_its_priority() -> None:
    made = record("text")
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        made.exc_info = sys.exc_info()
    lines = JournalLines().format(made).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("<4>") for line in lines)
    assert json.loads(JsonLines().format(made))["traceback"].endswith("ZeroDivisionError: x")


def test_an_event_has_its_fields_in_json() -> None:
    event = EventReport(1, 2, "residency", b"d/\xff", "archiving", "mirrored", "why", 10, 1_500_000_000)
    line = json.loads(JsonLines().format(record("text", fields=fields_of(event))))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "tierfs.x", "text")
    assert {name: line[name] for name in ("kind", "path", "from", "to", "reason", "bytes", "duration")} == {
        "kind": "residency",
        "path": "d/\udcff",
        "from": "archiving",
        "to": "mirrored",
        "reason": "why",
        "bytes": 10,
        "duration": 1.5,
    }
    made = record("it is %s", "away", **happened("breaker", before="closed", after="open"))
    line = json.loads(JsonLines().format(made))
    assert (line["kind"], line["from"], line["to"], line["reason"]) == ("breaker", "closed", "open", "it is away")
    assert "kind" not in json.loads(JsonLines().format(record("text")))


def test_the_journal_is_where_systemd_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        st = os.fstat(log.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(log.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{st.st_dev}:{st.st_ino + 1}")
        assert not is_journal(log.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{st.st_dev}:{st.st_ino}")
        assert is_journal(log.fileno())


# -- lines that are alike --------------------------------------------------------------------------------------------


class Kept(logging.Handler):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[logging.LogRecord] = []
        self.is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record)

    def texts(self) -> list[str]:
        return [line.getMessage() for line in self.lines]

    def close(self) -> None:
        self.is_closed = True
        super().close()


def test_lines_that_are_alike_are_counted_and_others_are_not() -> None:
    kept = Kept()
    similar = Similar(kept, lines=2, while_s=3600)
    for index in range(5):
        similar.handle(record("read %d failed: 100%%", index))
    similar.handle(record("something else"))
    assert kept.texts() == ["read 0 failed: 100%", "read 1 failed: 100%", "something else"]
    similar.close()
    assert kept.texts()[3:] == ["3 similar lines in 0 s, the last: read 4 failed: 100%"]
    assert json.loads(JsonLines().format(kept.lines[3]))["similar"] == 3
    assert kept.is_closed


def test_the_next_while_begins_with_how_many_there_were() -> None:
    kept = Kept()
    similar = Similar(kept, lines=1, while_s=10)
    for at_s in (0, 4, 9, 10, 11):
        made = record("again")
        made.created = 1000.0 + at_s
        similar.handle(made)
    assert kept.texts() == ["again", "2 similar lines in 9 s, the last: again", "again"]
    similar.close()
    assert kept.texts()[3:] == ["1 similar lines in 1 s, the last: again"]


def test_how_many_there_were_is_said_without_another_line() -> None:
    kept = Kept()
    similar = Similar(kept, lines=1, while_s=0.01)
    timer = None
    while timer is None:  # one that is over already is forgotten
        similar.handle(record("again"))
        timer = similar._timer
    timer.join()
    assert "similar lines in" in kept.texts()[-1]
    similar.close()


def test_lines_of_another_process_are_alike_by_what_they_were_made_of() -> None:
    kept = Kept()
    similar = Similar(kept, lines=1, while_s=3600)
    for text, alike in (
        ("GET a failed", "GET %s failed"),
        ("GET b failed", "GET %s failed"),
        ("the lease is lost", ""),
    ):
        similar.handle(record("%s", text, alike=alike))
    assert kept.texts() == ["GET a failed", "the lease is lost"]
    similar.close()


def test_a_line_that_is_written_wrongly_ends_nobody() -> None:
    kept = Kept()
    similar = Similar(kept, lines=1, while_s=3600)
    for text in ("a", "b"):
        similar.handle(record("%d", text))
    similar.close()
    assert [line.args for line in kept.lines] == [("a",)]


def test_events_are_alike_by_what_changes() -> None:
    kept = Kept()
    similar = Similar(kept, lines=1, while_s=3600)
    for after in ("archiving", "archiving", "mirrored"):
        event = EventReport(1, 2, "residency", b"a", "hot", after)
        similar.handle(record("%s", f"a: {after}", level=logging.INFO, fields=fields_of(event)))
    assert kept.texts() == ["a: archiving", "a: mirrored"]
    similar.close()
