"""The checks of the database: its file, its chains, and whether its rows agree with each other.

Each function reads in portions or in one statement, as a daemon may run. SQL stands in store/.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from stoker.core.clock import wall_ms
from stoker.core.errors import JournalBroken, StokerError
from stoker.core.units import counted, span
from stoker.ops import journal_audit
from stoker.ops.doctor.examination import REPAIR, Check, E, Examination, Gravity, Needs, Symptom, W
from stoker.store import (
    attempts,
    audit,
    changes,
    checkpoints,
    integrity,
    invariants,
    jobs_from_changes,
    journaled_rows,
    outbox,
    secret_rows,
    shipped_schema,
)
from stoker.store.high_water import HighWater, Mark
from stoker.store.invariants import Invariant
from stoker.store.migrate import refuse_unknown, shipped_migrations
from stoker.store.open import doubt, doubt_journal
from stoker.store.restore import given_out
from stoker.store.secret_box import KEY_FILE, box_of_file

RESTORE = "stop stokerd, then: stoker restore --from-journal, or: stoker restore --from-backup latest"
LOOK = "stoker history ID; if the rows are wrong: stop stokerd, stoker restore --from-backup latest"
SUBMIT_AGAIN = "stoker show ID; submit the job anew, as it is held (`secrets`) when it should start"
NEWER = "start the stokerd that wrote it, or restore a backup of before it: stoker restore --from-backup FILE"
LAG_ROWS = 1_000  # the journal of a healthy daemon lacks no more

Found = Iterator[Symptom | str]


def can_be_opened(examination: Examination) -> Found:
    if examination.refused is not None:
        yield Symptom(examination.refused.message, remedy=RESTORE)
    elif examination.opened is None:
        remedy = "start stokerd: it creates one"
        yield Symptom(f"{examination.directory.database} does not exist yet", remedy, Gravity.NOTE)


def has_known_schema(examination: Examination) -> Found:
    newest = shipped_migrations()[-1].number
    if 0 < examination.schema < newest:
        message = f"the database has schema {examination.schema}, this program's is {newest}"
        yield Symptom(message, "start stokerd: it makes a backup and migrates", Gravity.NOTE)
        return
    try:
        refuse_unknown(examination.connection)
    except StokerError as error:
        yield f"{error.message}; a daemon of this version refuses it"


def agrees_with_aside(examination: Examination) -> Found:
    """`state.json` is read before the database, which always contains at least what the file demands."""
    try:
        doubt(examination.connection, examination.directory.read_aside())
    except StokerError as error:
        yield Symptom(error.message, error.hint)


def agrees_with_journal(examination: Examination) -> Found:
    try:
        doubt_journal(examination.connection, examination.directory.journal)
    except StokerError as error:
        yield Symptom(error.message, f"stop stokerd, then: {error.hint}")


def has_whole_journal(examination: Examination) -> Found:
    """Read every line: a gigabyte takes some seconds. The database is read first, as a daemon may run."""
    directory, connection = examination.directory.journal, examination.connection
    present = outbox.exists(connection)
    chain = outbox.chain(connection) if present else None
    first, last = outbox.entry_range(connection) if present else (1, 0)
    journal = journal_audit.read(directory)
    if journal.broken is not None:
        yield Symptom(
            journal.broken,
            f"stoker backup; stop stokerd; {shlex.join(['mv', str(directory), f'{directory}.old'])}; start stokerd",
        )
    if present and chain is None and examination.daemon is not None and examination.settings.journal.enabled:
        message = f"{directory} is not continued; a new chain of it begins once it can be written"
        yield Symptom(message, "stoker status says why it cannot be written", Gravity.WARNING)
        return
    behind = last - max(journal.end.last, first - 1) if journal.chain == chain else last - first + 1
    if behind > LAG_ROWS:
        running = examination.daemon is not None
        remedy = "stoker status says why" if running else "start stokerd: it adds them"
        message = f"{directory} lacks {counted(behind, 'changed row')}; the database keeps the list of them"
        yield Symptom(message, remedy, Gravity.WARNING if running else Gravity.NOTE)


def has_rows_as_journaled(examination: Examination) -> Found:
    """A journal that cannot be read is a finding of the check of its lines."""
    with suppress(JournalBroken, OSError):
        uncompared = yield from journaled_rows.differences(examination.connection, examination.directory.journal)
        if uncompared:
            yield Symptom(
                f"{counted(uncompared, 'row')} could not be compared: the files of the journal with them were removed",
                "nothing is known to be wrong; [journal] keep_bytes says how much of the journal is kept",
                Gravity.NOTE,
            )


def has_whole_pages(examination: Examination) -> Found:
    for sentence in integrity.damaged_pages(examination.connection):
        yield Symptom(sentence, REPAIR if integrity.OF_INDEX.match(sentence) else None)


def has_no_lost_references(examination: Examination) -> Found:
    yield from integrity.lost_references(examination.connection)


def has_shipped_schema(examination: Examination) -> Found:
    for one in shipped_schema.differences(examination.connection):
        if one.shipped is None:
            yield Symptom(str(one), "stoker ignores it; ask who made it", Gravity.NOTE)
        else:
            yield Symptom(str(one), None if one.remakable else RESTORE)


def follows(rule: Invariant, examination: Examination) -> Found:
    """The rows follow a rule of store/invariants.py."""
    yield from invariants.broken(examination.connection, rule)


def has_whole_chain(examination: Examination) -> Found:
    connection = examination.connection
    all_of_it = changes.last(connection)[0] - changes.last_removed(connection)
    chain = audit.verify(connection, lambda count: examination.progress("change chain", count, all_of_it))
    if chain.broken is not None:
        yield chain.broken


def has_whole_checkpoints(examination: Examination) -> Found:
    done, all_of_them = 0, checkpoints.count(examination.connection)

    def progress(count: int) -> None:
        nonlocal done
        done += count
        examination.progress("checkpoints", done, all_of_them)

    yield from audit.damaged_checkpoints(examination.connection, progress)


def has_jobs_as_changed(examination: Examination) -> Found:
    """Compare jobs with their changes, in one pass for two checks, as it reads most of the database."""
    done, after, all_of_them = 0, 0, jobs_from_changes.count(examination.connection)
    while (portion := jobs_from_changes.examine(examination.connection, after)) is not None:
        done, after = done + portion.jobs, portion.after
        yield from portion.unlike
        yield from (Symptom(spec.sentence, REPAIR if spec.is_recorded else None) for spec in portion.damaged)
        examination.progress("jobs", done, all_of_them)


def has_ids_below_mark(examination: Examination) -> Found:
    """The database is read before the mark: a daemon raises the mark before it stores an id."""
    try:
        used = given_out(examination.connection)
        mark = HighWater(examination.directory.high_water).read()
    except StokerError as error:
        yield Symptom(error.message, error.hint)
        return
    for name in Mark.__struct_fields__:
        if getattr(used, name) > getattr(mark, name):
            most, stored = getattr(mark, name), getattr(used, name)
            yield f"{examination.directory.high_water}: {name} says {most}, the database has {stored}"


def has_readable_secrets(examination: Examination) -> Found:
    """The key in its file is tried: a credential, which systemd gives to the daemon alone, is not at hand."""
    root = examination.directory.root
    try:
        box = box_of_file(root)
    except StokerError as error:
        yield Symptom(error.message, error.hint, Gravity.ERROR)
        return
    if box is not None:
        for job_id, name in secret_rows.unreadable(examination.connection, box):
            yield f"secret {name} of job {job_id} is damaged, or {root / KEY_FILE} is not its key"


def has_fresh_checkpoints(examination: Examination) -> Found:
    limit_ms, now = examination.settings.workflows.stale_ms, wall_ms()
    running = [attempt.job_id for attempt in attempts.open_attempts(examination.connection)]
    for job_id, at in checkpoints.newest_at(examination.connection, running).items():
        if now - at > limit_ms:
            message = f"job {job_id} runs, and its newest checkpoint is {span(now - at)} old"
            yield Symptom(message, f"stoker worker {job_id}; stoker logs {job_id}")


def _rule(rule: Invariant, meaning: str, severity: Gravity = Gravity.ERROR, remedy: str = RESTORE) -> Check:
    return Check("rows", rule.value, meaning, severity, remedy, partial(follows, rule))


CHECKS = (
    Check("database", "file", "the database can be opened", E, RESTORE, can_be_opened, Needs.FILES),
    Check("database", "schema", "this program knows its schema", E, NEWER, has_known_schema, Needs.DATABASE),
    Check("database", "state.json",
          "it lost no commit, and is of this instance", E, RESTORE, agrees_with_aside, Needs.DATABASE),
    Check("database", "journal", "it has every commit that the journal has", E, RESTORE, agrees_with_journal,
          Needs.DATABASE),
    Check("database", "journal lines", "each line of the journal has its hash, and it lacks few changed rows", E,
          "stoker audit verify", has_whole_journal, Needs.DATABASE),
    Check("database", "pages", "SQLite's integrity check finds no damage", E, RESTORE,
          has_whole_pages, Needs.DATABASE),
    Check("database", "references", "no row refers to a missing row", E, RESTORE,
          has_no_lost_references, Needs.DATABASE),
    Check("database", "objects", "tables, indexes and triggers are as shipped", E, REPAIR,
          has_shipped_schema),
    _rule(Invariant.LOG, "the log of changes has no gap"),
    Check("rows", "change chain", "the hash of each change matches its content", E, RESTORE, has_whole_chain),
    Check("rows", "jobs", "the row of each job agrees with its changes", E, LOOK,
          has_jobs_as_changed),
    Check("rows", "journaled", "each row is as the journal has it", E, RESTORE, has_rows_as_journaled, still=True),
    _rule(Invariant.OPEN_ATTEMPTS, "a job has one open attempt at most, and runs or is held then"),
    _rule(Invariant.NOT_RUNNING, "a running job has an open attempt", W,
          "the next start of stokerd holds it for a person"),
    _rule(Invariant.HOLDS, "jobs hold no more of a resource than there is", W,
          "stoker resource ls; stoker resource set NAME N"),
    _rule(Invariant.NEEDS, "a job waits only for what is stored", E,
          "stoker why ID; stoker skip ID, or stoker cancel ID"),
    _rule(Invariant.ATTEMPTS, "every attempt that a job has had is stored", E, LOOK),
    _rule(Invariant.PURGED, "only jobs that have ended are removed"),
    _rule(Invariant.COUNTERS, "counts of attempts and open needs are right", W, REPAIR),
    _rule(Invariant.WORKFLOWS, "workflows agree with their steps and changes", E, RESTORE),
    _rule(Invariant.CHAINS, "chains of checkpoints have no gap"),
    Check("rows", "checkpoints", "each checkpoint matches its checksum", E, RESTORE, has_whole_checkpoints),
    _rule(Invariant.KEYS, "idempotency keys name jobs that exist", W, RESTORE),
    _rule(Invariant.SUPERSEDED, "of each supersede key one job waits at most", W,
          "stoker show ID; stoker cancel the older one"),
    _rule(Invariant.QUEUES, "queues and resources are what their changes say", E,
          "stoker queue ls; stoker queue set NAME; stoker resource set NAME N"),
    _rule(Invariant.SCHEDULES, "schedules are what their changes say", E,
          "stoker schedule show NAME; stoker schedule add --replace NAME"),
    _rule(Invariant.SECRETS, "each secret is of a job that asks for it", W, SUBMIT_AGAIN),
    Check("rows", "sealed secrets", "the key in its file opens each secret", W,
          f"{SUBMIT_AGAIN}; if a credential is the key: move secrets.key away", has_readable_secrets),
    _rule(Invariant.OUTBOX, "each entry of the outbox names a table", W,
          "restart stokerd: it begins a new chain of the journal"),
    Check("rows", "high-water mark", "no id is above the high-water mark", W,
          "restart stokerd: it raises the mark", has_ids_below_mark),
    Check("rows", "stale checkpoints", "running attempts still save checkpoints", W, "stoker worker ID",
          has_fresh_checkpoints),
)  # fmt: skip
