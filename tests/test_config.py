"""Settings: their sources, every mistake at once, and a sample file that equals the defaults."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
import pytest

from stoker.config import ENVIRONMENT, Config, describe, find, load
from stoker.config.accounts import access_of
from stoker.config.describing import help_of
from stoker.config.settings import SECTIONS
from stoker.core.errors import EX_CONFIG, ConfigInvalid
from stoker.core.job.model import Queue, QueueClass
from stoker.core.throttle import Band, Gauge

CONFIG = Path(__file__).parents[1] / "config"
TELL = 'command = "tell"'  # of a hook
CLUSTER_QUEUE = '[cluster]\ndirectory = "/x"\n[queues.a]\nbackend = "slurm"\n'
NIGHTLY = """[schedules.a]
timing = "@daily"
[schedules.a.flow]
name = "f"
secrets = { A = "-" }
[schedules.a.flow.steps.a]
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "stoker.toml"
    path.write_text(text)
    return path


FLOWING = '[schedules.a]\ntiming = "@daily"\nflow = { name = "f", steps = { a = { command = "true" } } }\n'
SCHEDULE = "[schedules.a]\ntiming = '@daily'\n[schedules.a.job]\n"


def mistakes(directory: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as refused:
        load(written(directory, text), environ)
    assert refused.value.exit_status == EX_CONFIG
    errors: list[str] = refused.value.details["errors"]
    return errors


# --- the sample file --------------------------------------------------------------------------------------


def test_sample_file_when_compared_with_the_structs_then_it_is_what_describe_writes() -> None:
    sample = (CONFIG / "stoker.toml").read_text()
    assert sample == describe(Config()), "write describe(Config()) to config/stoker.toml"


def test_sample_file_when_loaded_then_it_changes_nothing() -> None:
    assert load(CONFIG / "stoker.toml", {}) == Config()


def test_sample_file_when_read_then_every_key_stands_there_with_its_help() -> None:
    document = tomllib.loads((CONFIG / "stoker.toml").read_text())
    for section, struct in SECTIONS.items():
        keys = msgspec.structs.fields(struct)
        assert list(document[section]) == [key.encode_name for key in keys]
        assert all(help_of(key.type) for key in keys), f"a key of [{section}] has no help"


@pytest.mark.parametrize("example", sorted(path.name for path in (CONFIG / "examples").glob("*.toml")))
def test_example_when_loaded_then_it_is_valid(example: str) -> None:
    assert load(CONFIG / "examples" / example, {}) != Config()


# --- where settings come from -----------------------------------------------------------------------------


def test_load_when_there_is_no_file_then_defaults_hold(tmp_path: Path) -> None:
    assert load(None, {"XDG_CONFIG_HOME": str(tmp_path)}) == Config()


def test_find_when_the_user_has_a_file_then_it_is_that_one(tmp_path: Path) -> None:
    (tmp_path / "stoker").mkdir()
    path = written(tmp_path / "stoker", "[jobs]\ngrace_ms = 5\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find(None, environ) == path
    assert load(None, environ).jobs.grace_ms == 5
    assert find(Path("/asked.toml"), environ) == Path("/asked.toml")


def test_load_when_the_environment_has_the_key_then_it_wins(tmp_path: Path) -> None:
    path = written(tmp_path, "[cpu]\nthrottle_threshold = 70\nresume_threshold = 60\n")
    config = load(path, {"STOKER_CPU_THROTTLE_THRESHOLD": "85.5", "STOKER_RECOVERY_TIMEOUT_MS": "60_000"})
    assert (config.cpu.throttle_threshold, config.cpu.resume_threshold) == (85.5, 60.0)
    assert config.recovery.timeout_ms == 60_000


def test_load_when_variables_are_of_each_kind_then_each_is_read_as_its_key(tmp_path: Path) -> None:
    environ = {
        "STOKER_DAEMON_ENV_ALLOW": "PATH, HOME,",
        "STOKER_DAEMON_PATH": "/a_b:/c d",
        "STOKER_RECOVERY_SURVIVE": "true",
        "STOKER_RETRY_BACKOFF_FACTOR": "3",
        "STOKER_LOG_LEVEL": "debug",
    }
    config = load(written(tmp_path, ""), environ)
    assert config.daemon.env_allow == ("PATH", "HOME")
    assert config.daemon.path == "/a_b:/c d"
    assert (config.recovery.survive, config.retry.backoff_factor, config.log.level) == (True, 3.0, "debug")


def test_load_when_a_stoker_variable_is_no_setting_then_it_is_left_alone(tmp_path: Path) -> None:
    given_to_jobs = ("JOB_ID", "ATTEMPT", "RUN_ID", "INSTANCE", "SOCKET", "TOKEN", "CHECKPOINT", "INPUTS", "OUTPUT")
    others = ("STATE_DIR", "LAUNCHER", "PROGRESS", "SEED", "FAULTS", "KEEP", "CPUS")
    environ = {f"STOKER_{name}": "7" for name in (*given_to_jobs, *others)}
    assert load(written(tmp_path, ""), environ) == Config()


def test_load_when_a_variable_names_no_key_of_its_section_then_it_is_a_mistake(tmp_path: Path) -> None:
    environ = {"STOKER_CPU_THROTTLE_TRESHOLD": "50", "STOKER_CPU_NONSENSE": "x", "STOKER_JOBS_GRACE_MS": "-1"}
    assert mistakes(tmp_path, "[cpu]\nthrottle_treshold = 90\n", **environ) == [
        "[cpu] throttle_treshold: unknown key; did you mean throttle_threshold?",
        "STOKER_JOBS_GRACE_MS = '-1': expected a whole number from 0 to 316_224_000_000",
        "STOKER_CPU_NONSENSE: unknown key",
        "STOKER_CPU_THROTTLE_TRESHOLD: unknown key; did you mean STOKER_CPU_THROTTLE_THRESHOLD?",
    ]


def test_environment_table_when_built_then_it_has_a_name_for_every_key() -> None:
    assert len(ENVIRONMENT) == sum(len(msgspec.structs.fields(struct)) for struct in SECTIONS.values())
    named = {"STOKER_RECOVERY_TIMEOUT_MS", "STOKER_CPU_THROTTLE_THRESHOLD", "STOKER_RETRY_BASE_DELAY_MS"}
    assert named <= ENVIRONMENT.keys()


# --- mistakes ---------------------------------------------------------------------------------------------


def test_load_when_many_things_are_wrong_then_all_are_named_at_once(tmp_path: Path) -> None:
    text = """
        nonsense = 1
        [daemn]
        [cpu]
        throttle_treshold = 90
        throttle_threshold = 300
        smoothing = nan
        [retry]
        base_delay_ms = 5000
        max_delay_ms = 1
        [log]
        level = "loud"
        [daemon]
        env_allow = ["A B"]
        [memory]
        resume_threshold = true
    """
    assert mistakes(tmp_path, text, STOKER_RECOVERY_SURVIVE="yes", STOKER_JOBS_GRACE_MS="-1") == [
        "[nonsense]: unknown section",
        "[daemn]: unknown section; did you mean daemon?",
        "[cpu] throttle_treshold: unknown key; did you mean throttle_threshold?",
        "[cpu] throttle_threshold = 300: expected a number from 0 to 100",
        "[cpu] smoothing = nan: expected a number above 0 and up to 1",
        "[log] level = 'loud': expected one of 'critical', 'debug', 'error', 'info', 'warning'",
        "[daemon] env_allow = ['A B']: expected a list of names of environment variables",
        "[memory] resume_threshold = True: expected a number from 0 to 100",
        "STOKER_RECOVERY_SURVIVE = 'yes': expected true or false",
        "STOKER_JOBS_GRACE_MS = '-1': expected a whole number from 0 to 316_224_000_000",
        "[retry] base_delay_ms = 5000 must not be above max_delay_ms = 1",
    ]


def test_load_when_the_defaults_of_a_queue_contradict_each_other_then_it_is_named(tmp_path: Path) -> None:
    text = """
        [retry]
        max_delay_ms = 10_000
        [queues.slow.defaults]
        base_delay_ms = 20_000
        [queues.torn.defaults]
        checkpoint_exit_code = 0
        [queues.fine.defaults]
        base_delay_ms = 10_000
        unresponsive_kill_ms = 1
    """
    assert mistakes(tmp_path, text) == [
        "[queues.slow.defaults] base_delay_ms: 20s is more than max_delay_ms, 10s",
        "[queues.torn.defaults] checkpoint_exit_code: 0 is among success_exit_codes, too; it can mean only one thing",
    ]


def test_load_when_queues_are_wrong_then_each_is_named(tmp_path: Path) -> None:
    text = """
        [queues]
        Upper = {}
        flat = 3
        [queues.bulk]
        class = "lowest"
        max_running = -1
        clas = "low"
        [queues.bulk.defaults]
        max_attempts = 0
        survive = 1
        comand = "x"
    """
    assert mistakes(tmp_path, text) == [
        "[queues.Upper]: a name is 1 to 64 of a-z 0-9 . _ - and starts with a-z or 0-9",
        "[queues.flat]: expected a table of keys",
        "[queues.bulk] class = 'lowest': expected one of 'high', 'normal', 'low'",
        "[queues.bulk] max_running = -1: expected a whole number from 0 to 100_000",
        "[queues.bulk] clas: unknown key; did you mean class?",
        "[queues.bulk.defaults] max_attempts = 0: expected a whole number from 1 to 1_000_000",
        "[queues.bulk.defaults] survive = 1: expected true or false",
        "[queues.bulk.defaults] comand: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cpu\n", "not TOML: Expected ']' at the end of a table declaration (at line 1, column 5)"),
        ("[cpu]\nsample_ms = 500\nsample_ms = 600\n", "not TOML: Cannot overwrite a value (at line 3, column 16)"),
        ("queues = 3", "[queues]: expected a table of keys"),
        ("hooks = 3", "[hooks]: expected a table of keys"),
        ("[hooks]\na = 3", "[hooks.a]: expected a table of keys"),
        ('[hooks.A]\non = ["job.failed"]\ncommand = "x"', "[hooks.A]: a name is 1 to 64 of a-z 0-9 . _ -"),
        ('[hooks.a]\non = ["job.failed"]', '[hooks.a] command: it is missing, as in command = "/usr/local/bin/tell"'),
        ('[hooks.a]\ncommand = "x"', '[hooks.a] on: it is missing, as in on = ["job.failed"]'),
        (f"[hooks.a]\non = []\n{TELL}", "[hooks.a] on = []: expected a list of one of 'job.succeeded'"),
        (f'[hooks.a]\non = ["job.fail"]\n{TELL}', "[hooks.a] on = ['job.fail']: expected a list of one of"),
        (f'[hooks.a]\non = ["disk.ok", "disk.ok"]\n{TELL}', "[hooks.a] on: disk.ok is named twice"),
        ('[hooks.a]\non = ["disk.ok"]\ncommand = ""', "command = '': expected the path or the name of a program"),
        (
            f'[hooks.a]\non = ["job.failed", "disk.ok"]\nqueue = "q"\n{TELL}',
            "[hooks.a] queue: it does not apply to disk.ok; make two hooks, or leave it out",
        ),
        (f'[hooks.a]\non = ["disk.ok"]\nenv = {{ STOKER_X = "1" }}\n{TELL}', "[hooks.a] env.STOKER_X: "),
        (f'[hooks.a]\non = ["disk.ok"]\nretries = 3\n{TELL}', "[hooks.a] retries: unknown key"),
        (
            f'[hooks.a]\non = ["disk.ok"]\nsecrets = ["A"]\n{TELL}',
            "[hooks.a] secrets: schedules and hooks keep no secrets",
        ),
        (
            f'[schedules.a]\ntiming = "@daily"\n[schedules.a.job]\nsecrets = ["A"]\n{TELL}',
            "job] secrets: schedules and",
        ),
        (f"{NIGHTLY}secrets = ['A']\n{TELL}", "steps.a.secrets: schedules and hooks keep no secrets"),
        ("cpu = 3", "[cpu]: expected a table of keys"),
        ("[queues.a]\ndefaults = 3", "[queues.a.defaults]: expected a table of keys"),
        ("[disk]\nmin_free_bytes = 99999999999999999999", "from 0 to 1_099_511_627_776"),
        ("[daemon]\nhandlers = 3", "[daemon] handlers = 3: expected a list of names of Python modules"),
        ("[daemon]\nmax_running = 2.0", "[daemon] max_running = 2.0: expected a whole number from 0 to 100_000"),
        ('[cgroup]\nroot = "x"', """[cgroup] root = 'x': expected "", "off" or an absolute path"""),
        ('[otel]\nendpoint = "ftp://x"', """[otel] endpoint = 'ftp://x': expected "" or an http(s) URL"""),
        ("[daemon]\npath = 3", "[daemon] path = 3: expected text"),
        ('[queues.a.defaults]\nttl_ms = "x"', "[queues.a.defaults] ttl_ms = 'x': expected a whole number from 1 to"),
        ("[retry]\nbackoff_factor = inf", "[retry] backoff_factor = inf: expected a number from 1 to 1_000"),
        (
            "[queues.a]\nmin_running = 5\nmax_running = 4",
            "[queues.a] min_running: 5 is above max_running, which is 4",
        ),
        ("schedules = 3", "[schedules]: expected a table of keys"),
        ("[schedules]\na = 3", "[schedules.a]: expected a table of keys"),
        ('[schedules.a]\ntiming = "@daily"', "[schedules.a] params: a schedule has a job or a flow"),
        (f'{SCHEDULE}command = "true"\nnice = 99', "[schedules.a.job] nice = 99: expected a whole number from -20"),
        (SCHEDULE.replace("@daily", "0 0 31 2 *") + 'command = "true"', "timing: '0 0 31 2 *': never comes"),
        (f"{FLOWING}reason = 'x'", "[schedules.a] reason: unknown key"),
        (FLOWING.replace('steps = { a = { command = "true" } }', "steps = {}"), "a.flow] steps: it is missing, as in"),
        (f'{FLOWING}target = ["b"]', "[schedules.a] the flow has 1 mistake: target: there is no step 'b'"),
        ('[schedules.a]\ntiming = "@daily"\nflow = "a.toml"', "[schedules.a] flow = 'a.toml': expected a table"),
        (f"{FLOWING}reuse = true", "[schedules.a] reuse = True: expected the id of a workflow, or 'latest'"),
        (f'[hooks.a]\non = ["disk.ok"]\nargs = ["b", "c\\u0000"]\n{TELL}', "hooks.a.args[1]: NUL at character 1: "),
        (f'{SCHEDULE}command = "tr\\u0000ue"', "schedules.a.job.command: NUL at character 2: commands, "),
        (f"[daemon]\nmax_running = {'9' * 5_000}", "not usable: a number has thousands of digits"),
        (f"[daemon]\nmax_running = {'[' * 3_000}{']' * 3_000}", "not usable: nested too deeply"),
        (
            '[access]\nusers = "group"\ngroup = "gone9"',
            "[access] group = 'gone9': there is no such group on",
        ),
        ("[quotas.users.gone9]\nmax_queued = 1", "[quotas.users.gone9]: there is no such user on this machine"),
        (f"[quotas.users.{2**32}]\nmax_queued = 1", f"[quotas.users.{2**32}]: there is no such user on this"),
        ("[quotas.users.0]\n[quotas.users.root]", "[quotas.users.root]: is the same user as [quotas.users.0]"),
        ('[access]\nadmin_group = "gone9"', "[access] admin_group = 'gone9': there is no such group"),
        (f'[access]\noperator_group = "{2**32}"', "[access] operator_group = '4294967296': there is no such group"),
        ('[access]\ngroup = ""', "[access] group = '': expected the name or the number of a group"),
        (f'[log]\nlevel = "{"x" * 999}"', f"[log] level = '{'x' * 59}…: expected one of"),
    ],
)
def test_load_when_one_thing_is_wrong_then_the_message_says_what_and_where(
    tmp_path: Path, text: str, expected: str
) -> None:
    (error,) = mistakes(tmp_path, text)
    assert expected in error


def test_load_when_the_file_cannot_be_read_then_the_error_says_why(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# caf\xe9")
    for path, why in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (latin, "not UTF-8 at byte 5"),
    ]:
        with pytest.raises(ConfigInvalid, match=why) as refused:
            load(path, {})
        assert str(path) in refused.value.message


def test_load_when_a_bad_key_is_compared_with_another_then_it_is_named_only_once(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, '[cpu]\nresume_threshold = "x"\nthrottle_threshold = 10\n')) == 1


def test_load_when_flows_of_a_schedule_are_wrong_then_each_mistake_has_its_section(tmp_path: Path) -> None:
    flow = """[schedules.a]
timing = "@daily"
[schedules.a.flow]
name = "f"
priority = 99999
[schedules.a.flow.defaults]
nice = 99
[schedules.a.flow.steps.b]
command = 3
comand = "x"
[schedules.a.flow.finally.c.workflow]
concurrency = 3
steps = "d"
"""
    assert mistakes(tmp_path, flow) == [
        "[schedules.a.flow] priority = 99999: expected a whole number from -10_000 to 10_000",
        "[schedules.a.flow.defaults] nice = 99: expected a whole number from -20 to 19",
        "[schedules.a.flow.steps.b] command = 3: expected text",
        "[schedules.a.flow.steps.b] comand: unknown key; did you mean command?",
        "[schedules.a.flow.finally.c.workflow] concurrency = 3: expected a table",
        "[schedules.a.flow.finally.c.workflow.steps]: expected a table of keys",
        '[schedules.a.flow.finally.c.workflow] name: it is missing, as in name = "nightly"',
    ]


# --- what the settings mean -------------------------------------------------------------------------------


def test_describe_when_its_text_is_loaded_then_the_config_is_the_same(tmp_path: Path) -> None:
    text = """
        [daemon]
        path = 'C:\\"quoted"\u007f'
        [cpu]
        smoothing = 1e-7
        [queues."a.b"]
        class = "low"
        max_running = 3
        [queues."a.b".defaults]
        on_orphan = "requeue"
        success_exit_codes = [0, 3]
        [queues.empty]
        [hooks."a.b"]
        on = ["job.failed", "job.held"]
        queue = "a.b"
        labels = { team = "web" }
        command = "/bin/tell"
        args = ["a", 'b"c']
        [hooks.plain]
        on = ["disk.low"]
        command = "tell"
    """
    config = load(written(tmp_path, text.replace("\x7f", "")), {"STOKER_DAEMON_PATH": 'a"b\\c\x7f\u00e9\n'})
    assert load(written(tmp_path, describe(config)), {}) == config


def test_queue_section_when_laid_over_a_queue_then_only_its_keys_change(tmp_path: Path) -> None:
    path = written(tmp_path, '[queues.bulk]\nclass = "low"\n[queues.bulk.defaults]\nmax_attempts = 3\n')
    live = Queue(name="bulk", max_running=9, paused=True)
    assert load(path, {}).queues["bulk"].over(live) == Queue(
        name="bulk", queue_class=QueueClass.LOW, max_running=9, paused=True, defaults={"max_attempts": 3}
    )


def test_queue_section_when_it_says_nothing_then_a_new_queue_is_an_ordinary_one(tmp_path: Path) -> None:
    assert load(written(tmp_path, "[queues.new]"), {}).queues["new"].over(Queue(name="new")) == Queue(name="new")


def test_throttle_policy_when_psi_is_off_then_only_cpu_and_memory_count(tmp_path: Path) -> None:
    assert Config().throttle_policy().bands == {Gauge.CPU: Band(90, 80), Gauge.MEMORY: Band(95, 90)}
    config = load(written(tmp_path, "[psi]\nio_full = 20\n"), {})
    assert config.throttle_policy().bands[Gauge.IO_FULL] == Band(20, 16)


def test_slots_when_not_set_then_they_follow_the_cpus(tmp_path: Path) -> None:
    assert Config().daemon.slots >= 2
    assert load(written(tmp_path, "[daemon]\nmax_running = 7\n"), {}).daemon.slots == 7


def test_access_when_groups_have_names_or_numbers_then_they_become_numbers(tmp_path: Path) -> None:
    text = '[access]\nusers = "group"\ngroup = "root"\noperator_group = "1234"'

    rules = access_of(load(written(tmp_path, text), {}).access)

    assert (rules.group, rules.operators, rules.admins, rules.everyone) == (0, 1234, None, False)
    assert rules.own_uid == os.geteuid()


def test_access_when_it_is_for_the_owner_then_no_group_needs_to_exist(tmp_path: Path) -> None:
    rules = access_of(load(written(tmp_path, '[access]\ngroup = "gone9"'), {}).access)

    assert not rules.shared


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[queues.a]\nbackend = "slurm"', "[cluster] directory: it is missing"),
        (
            f"{CLUSTER_QUEUE}[queues.b]\noverflow_above = 1",
            "[queues.b] overflow_above: it has no effect without overflow",
        ),
        (f'{CLUSTER_QUEUE}overflow = "a"', "[queues.a] overflow: a queue with a backend starts no jobs on this host"),
        (f'{CLUSTER_QUEUE}[queues.b]\noverflow = "b"', "[queues.b] overflow: 'b' is no queue with a backend (a)"),
        ('[queues.b]\noverflow = "b"', "[queues.b] overflow: 'b' is no queue with a backend (none has one)"),
        ('[cluster]\ndirectory = "shared"', "[cluster] directory: 'shared' is not an absolute path"),
        ("[queues.a.slurm]\ncpus = 2", '[queues.a.slurm]: without backend = "slurm" it has no effect'),
        ('[queues.a]\nbackend = "slurm"\n[queues.a.slurm]\ncpus = 0', "[queues.a.slurm] cpus"),
        ('[queues.a]\nbackend = "slurm"\n[queues.a.slurm]\npartition = "-x"', "[queues.a.slurm] partition"),
        (
            '[queues.a]\nbackend = "slurm"\n[queues.a.slurm]\nextra = ["--wrap=id"]',
            "[queues.a.slurm] extra: '--wrap=id' is not among the options that are allowed",
        ),
        (
            '[cluster]\ndirectory = "/x"\n[run_as]\nuser = "submitter"\n[queues.a]\nbackend = "slurm"',
            '[run_as] user = "submitter": on the cluster jobs of a would run as the user of the daemon',
        ),
    ],
)
def test_backend_when_it_is_mistaken_then_the_section_and_the_key_are_named(
    tmp_path: Path, text: str, mistake: str
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load(written(tmp_path, text), {})

    assert any(error.startswith(mistake) for error in refused.value.details["errors"])


def test_backend_when_it_is_described_then_the_text_gives_the_same_settings(tmp_path: Path) -> None:
    wishes = '[queues.a.slurm]\ncpus = 2\nextra = ["--gres=gpu:1"]\n'
    text = f'[cluster]\ndirectory = "/x"\n[queues.a]\nbackend = "slurm"\n{wishes}'
    config = load(written(tmp_path, text), {})

    assert load(written(tmp_path, describe(config)), {}).backends == config.backends
    assert config.backends["a"].cpus == 2
