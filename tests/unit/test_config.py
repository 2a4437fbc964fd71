"""Settings: where they come from, who wins, and how a wrong one is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from qworker import config
from qworker.config import Settings
from qworker.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    inner = tmp_path / "src" / "shop"
    inner.mkdir(parents=True)
    return tmp_path


def load(project: Path, toml: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    (project / "pyproject.toml").write_text(f"[tool.qworker]\n{toml}" if toml else "")
    return Settings.load(flags, environ=environ or {}, cwd=project / "src" / "shop")


def test_the_defaults(project, monkeypatch):
    monkeypatch.setattr(config, "usable_cpus", lambda: 6)

    settings = load(project)

    assert settings == Settings()
    assert settings.concurrency == {"process": 6}
    assert (settings.queues, settings.pool, settings.window, settings.lease_s) == (
        ("default",),
        "process",
        "auto",
        12.0,
    )
    assert (settings.drain_timeout_s, settings.burst, settings.embedded, settings.url) == (20.0, False, True, None)


def test_flag_beats_environment_beats_file_beats_default(project):
    toml, environ = (
        'lease = "40s"\nmax-survivors = 9\npool = "thread"',
        {"QWORKER_LEASE": "30", "QWORKER_POOL": "async"},
    )

    settings = load(project, toml, environ, lease_s="20s")

    assert (settings.lease_s, settings.pool, settings.max_survivors, settings.recycle_timeout_s) == (20, "async", 9, 30)


def test_the_nearest_project_file_counts(project):
    (project / "src" / "pyproject.toml").write_text("[tool.qworker]\nburst = true\n")

    assert load(project, "burst = false\nlease = 99").burst is True
    assert load(project, "burst = false\nlease = 99").lease_s == 12


def test_without_any_project_file_there_are_defaults(tmp_path, monkeypatch):
    monkeypatch.setattr(config.Path, "read_text", lambda *_args: (_ for _ in ()).throw(FileNotFoundError()))

    assert Settings.load({}, environ={}, cwd=tmp_path) == Settings()


@pytest.mark.parametrize(
    ("written", "slots"),
    [
        ("8", {"thread": 8}),
        (8, {"thread": 8}),
        ("process=2,thread=20", {"process": 2, "thread": 20}),
        (" process = 2 , thread = 20 ", {"process": 2, "thread": 20}),
        ("thread=1", {"thread": 1}),
    ],
)
def test_slots_are_a_number_for_the_pool_or_said_for_each(project, written, slots):
    assert load(project, pool="thread", concurrency=written).concurrency == slots


@pytest.mark.parametrize(
    ("written", "kind", "slots", "children"),
    [("async=4x50", "async", 200, 4), ("3x2", "thread", 6, 3), ("thread=5", "thread", 5, 1)],
)
def test_slots_may_say_how_many_children_share_them(project, written, kind, slots, children):
    given = load(project, pool=kind, concurrency=written).concurrency

    assert given == {kind: slots}
    assert config.children_for(kind, given[kind]) == children


@pytest.mark.parametrize(
    ("kind", "slots", "cpus", "children"),
    [
        ("process", 7, 2, 7),
        ("thread", 4096, 2, 1),
        ("thread", 4097, 2, 2),
        ("async", 1, 8, 1),
        ("async", 50, 8, 1),
        ("async", 51, 8, 2),
        ("async", 200, 2, 2),
        ("async", 10_000, 1, 3),
    ],
)
def test_a_pool_has_as_many_children_as_cpus_and_slots_are_worth(monkeypatch, kind, slots, cpus, children):
    monkeypatch.setattr(config, "usable_cpus", lambda: cpus)

    assert config.children_for(kind, slots) == children


def test_slots_may_be_a_table_in_the_file(project):
    assert load(project, "concurrency = { process = 2, thread = 20 }").concurrency == {"process": 2, "thread": 20}


@pytest.mark.parametrize(("pool", "slots"), [("thread", 16), ("async", 100)])
def test_the_default_slots_follow_the_pool(project, pool, slots):
    assert load(project, pool=pool).concurrency == {pool: slots}


def test_every_setting_can_come_from_each_place(project):
    values = {
        "url": "redis://h:1", "namespace": "shop", "queues": "high,low", "pool": "thread", "concurrency": "thread=3",
        "window": "12", "drain_timeout": "1m", "burst": "yes", "lease": "5", "max_tasks_per_child": "7",
        "max_survivors": "8", "max_lent": "6", "recycle_timeout": "9s", "log_format": "json", "log_level": "debug",
        "name": "box", "embedded": "0", "allow_eviction": "on", "allow": "shop,tools",
    }  # fmt: skip
    assert {setting.name.removesuffix("_s") for setting in fields(Settings)} == set(values)

    by_flag = load(project, **values)
    by_environ = load(project, environ={f"QWORKER_{key.upper()}": value for key, value in values.items()})
    by_file = load(project, "\n".join(f"{key.replace('_', '-')} = {value!r}" for key, value in values.items()))
    by_underscores = load(project, "\n".join(f"{key} = {value!r}" for key, value in values.items()))

    assert by_flag == by_environ == by_file == by_underscores
    assert by_flag == Settings(
        url="redis://h:1", namespace="shop", queues=("high", "low"), pool="thread", concurrency={"thread": 3},
        window=12, drain_timeout_s=60, burst=True, lease_s=5, max_tasks_per_child=7, max_survivors=8, max_lent=6,
        recycle_timeout_s=9, log_format="json", log_level="debug", name="box", embedded=False, allow_eviction=True,
        allow=("shop", "tools"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"concurrency": "0"}, "-c 0: expected a whole number from 1 to 10000"),
        ({"concurrency": "two"}, "-c two: expected a whole number from 1 to 10000"),
        ({"concurrency": "fibre=2"}, "-c fibre=2: expected each of process, thread, async at most once, not 'fibre'"),
        ({"concurrency": "process=1,process=2"}, "not 'process'"),
        ({"concurrency": "process="}, "-c process=: expected a whole number from 1 to 10000"),
        ({"concurrency": "async=0x5"}, "-c async=0x5: expected a whole number from 1 to 10000"),
        ({"concurrency": "async=3x4096"}, "-c async=3x4096: expected a whole number from 1 to 10000"),
        ({"concurrency": "async=1x5000"}, "-c async=1x5000: expected a whole number from 1 to 4096"),
        ({"concurrency": "process=2x3"}, "-c process=…x…: a process has one slot, so that it can be killed alone"),
        ({"concurrency": "thread=2"}, "--pool process: the slots thread=2 leave that pool none"),
        ({"window": "0"}, "--window 0: expected auto, or a whole number from 1 to 100000"),
        ({"queues": ""}, "-q : queue '': a queue has 1 to 48 characters"),
        ({"queues": "a,A"}, "-q a,A: queue 'A': a queue has 1 to 48 characters"),
        ({"drain_timeout_s": "soon"}, "--drain-timeout soon: 'soon' is not a duration: write it as 30, 30s"),
        ({"lease_s": "10ms"}, "--lease 10ms: expected at least 1.0 s"),
        ({"max_survivors": True}, "--max-survivors True: expected a whole number from 1 to 10000"),
        ({"name": "\x1b"}, "--name '\\x1b': expected text without control characters"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_a_wrong_flag_is_named_as_it_was_written(project, flags, message):
    with pytest.raises(ConfigError) as caught:
        load(project, **flags)

    assert message in str(caught.value)


def test_a_wrong_variable_is_named_as_it_was_written(project):
    with pytest.raises(ConfigError, match=r"^QWORKER_POOL=fibre: expected process, thread or async$"):
        load(project, environ={"QWORKER_POOL": "fibre"})
    with pytest.raises(ConfigError, match=r"^QWORKER_BURST=perhaps: expected 1 or 0, true or false, yes or no$"):
        load(project, environ={"QWORKER_BURST": "perhaps"})


def test_an_empty_variable_is_none(project):
    assert load(project, environ={"QWORKER_POOL": "", "QWORKER_URL": " "}) == Settings()


def test_a_wrong_value_in_the_file_is_named_with_the_file(project):
    with pytest.raises(ConfigError) as caught:
        load(project, 'lease = "soon"')

    assert str(caught.value).startswith(
        f"{project / 'pyproject.toml'} [tool.qworker] lease = 'soon': 'soon' is not a dur"
    )


def test_an_unknown_key_of_the_file_is_refused_with_what_was_meant(project):
    with pytest.raises(
        ConfigError, match=r"\[tool.qworker\] drain-timout: no such setting; did you mean drain-timeout\?"
    ):
        load(project, "drain-timout = 3")
    with pytest.raises(ConfigError, match=r"\[tool.qworker\] xyz: no such setting; known are allow, allow-eviction, "):
        load(project, "xyz = 3")


def test_a_project_file_that_is_no_toml_is_said(project):
    (project / "pyproject.toml").write_text("[tool.qworker\n")

    with pytest.raises(ConfigError, match=r"cannot read .*pyproject.toml: Expected ']'"):
        Settings.load({}, environ={}, cwd=project)
    with pytest.raises(ConfigError, match=r"pyproject.toml: \[tool.qworker\] is not a table"):
        (project / "pyproject.toml").write_text("tool.qworker = 3")
        Settings.load({}, environ={}, cwd=project)


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Settings().lease_s = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings().concurrency["process"] = 3  # type: ignore[index]


def test_every_setting_explains_itself():
    for setting in fields(Settings):
        assert setting.metadata["help"].endswith("."), setting.name
        assert setting.metadata["flag"].startswith("-"), setting.name


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", 4), ("150000 100000", 2), ("10000 100000", 1), ("junk", 4)])
def test_a_containers_quota_bounds_the_processes(tmp_path, monkeypatch, quota, cpus):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(config, "_CGROUP_CPU", tmp_path / "cpu.max")
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})

    assert config.usable_cpus() == cpus


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[tool.qworker]\nlease = 0x1" + "0" * 5_000, r"lease = a number of very many digits: "),
        ("[tool.qworker]\nlease = " + "[" * 5_000 + "]" * 5_000, r"cannot read .*pyproject.toml: "),
        ('[tool.qworker]\n"\\u001b[2J" = 1', r"\[tool.qworker\] '\\x1b\[2j': no such setting"),
        ("a = '\x1b[2J", r"cannot read .*pyproject.toml: "),
    ],
)
def test_a_project_file_that_is_nonsense_is_told_in_a_line_that_can_be_printed(project, written, message):
    (project / "pyproject.toml").write_text(written)

    with pytest.raises(ConfigError, match=f"(?i){message}") as caught:
        Settings.load({}, environ={}, cwd=project)

    assert str(caught.value).isprintable()


def test_a_project_file_whose_tools_are_no_table_sets_nothing(project):
    (project / "pyproject.toml").write_text("tool = 3")

    assert Settings.load({}, environ={}, cwd=project) == Settings()


def test_in_a_working_directory_that_was_removed_there_is_no_project(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert Settings.load({}, environ={"QWORKER_LEASE": "5"}).lease_s == 5.0
