"""Profiles: valid, between the defaults and what is given, and right for the files of their brokers."""

import stat
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from tierfs.cli.main import tierfs
from tierfs.cli.mount_helper import plan_options
from tierfs.cli.sources import gather, read_file, sample
from tierfs.core.config import MountRequest, Settings
from tierfs.core.errors import ConfigError
from tierfs.core.policy import Fill, HotFile, matches, plan, why_for_good
from tierfs.core.profiles import PROFILES
from tierfs.core.residency import Residency

DAY_NS = 86400 * 10**9
NOW = 10_000 * DAY_NS
BROKERS = [name for name in PROFILES if name != "generic"]


def settings_of(profile: str) -> Settings:
    return gather(None, {}, {"profile": profile}).settings


def test_every_profile_can_be_chosen_and_no_other() -> None:
    assert get_args(Settings.model_fields["profile"].annotation) == tuple(PROFILES)
    assert settings_of("generic") == Settings()


@pytest.mark.parametrize("profile", BROKERS)
def test_a_profile_says_what_differs_from_the_defaults_and_why(profile: str) -> None:
    settings = settings_of(profile)
    for name, choice in PROFILES[profile].items():
        assert getattr(settings, name) != Settings.model_fields[name].default, f"{name} is the default"
        assert choice.why.endswith(".")
        assert len(choice.why) < 118, "it stands in a line of the sample"
    changed = {name for name in Settings.model_fields if getattr(settings, name) != getattr(Settings(), name)}
    assert changed == {*PROFILES[profile], "profile"}


@pytest.mark.parametrize("profile", BROKERS)
def test_a_profile_keeps_the_order_of_the_settings(profile: str) -> None:
    names = [name for name in Settings.model_fields if name in PROFILES[profile]]
    assert list(PROFILES[profile]) == names


def test_defaults_then_profile_then_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('profile = "kafka"\nwarm_after = "2h"\ncold_after = "3h"\nmin_size = 2\n')
    environment = {"TIERFS_COLD_AFTER": "4h", "TIERFS_MIN_SIZE": "3"}
    gathered = gather(str(file), environment, {"min_size": "4", "keep_hot": ()})
    settings = gathered.settings
    values = settings.settle, settings.keep_newest, settings.warm_after, settings.cold_after, settings.min_size
    assert [str(value) for value in values] == ["30s", "2", "2h", "4h", "4"]
    assert settings.keep_hot == PROFILES["kafka"]["keep_hot"].value
    assert gathered.given["keep_newest"].source == "keep_newest in profile kafka"
    assert gathered.given["warm_after"].source.startswith(f"warm_after in {file}, line ")


def test_which_profile_it_is_follows_the_same_order(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('profile = "kafka"\n')
    assert gather(str(file), {}, {}).settings.profile == "kafka"
    by_environment = gather(str(file), {"TIERFS_PROFILE": "nats"}, {})
    assert by_environment.settings.segments == ("*.blk",)
    assert gather(str(file), {"TIERFS_PROFILE": "nats"}, {"profile": "generic"}).settings == Settings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kafak", "TIERFS_PROFILE: there is no profile 'kafak', did you mean kafka"),
        ("", "there is no profile ''; there are generic, kafka, nats, rabbitmq"),
        ("pulsar", "there are generic, kafka, nats, rabbitmq"),
    ],
)
def test_a_profile_that_is_not_there(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gather(None, {"TIERFS_PROFILE": given}, {})


def test_what_contradicts_a_profile_says_so() -> None:
    with pytest.raises(ConfigError, match=r"cold_after in profile kafka \(1d\) is shorter than --warm-after \(2d\)"):
        gather(None, {}, {"profile": "kafka", "warm_after": "2d"})
    with pytest.raises(ConfigError, match=r"keep_newest in profile kafka \(2\) keeps nothing without segments"):
        gather(None, {"TIERFS_SEGMENTS": ""}, {"profile": "kafka"})


def test_a_line_of_fstab_has_a_profile() -> None:
    asked = plan_options('profile=kafka,segments="*.log,*.index",keep_newest=3')
    settings = gather(None, {}, asked.flags).settings
    assert (settings.segments, settings.keep_newest, settings.warm_after) == (("*.log", "*.index"), 3, DAY_NS // 24)


@pytest.mark.parametrize("profile", PROFILES)
def test_another_process_gets_the_values_as_they_are(profile: str) -> None:
    """Also another version, whose profile may say something else."""
    request = MountRequest("s3://b", "/m", "/m", "/s", settings_of(profile))
    assert MountRequest.from_json(request.to_json()) == request
    changed = request.settings.model_copy(update={"min_size": 77})
    again = MountRequest("s3://b", "/m", "/m", "/s", changed)
    assert MountRequest.from_json(again.to_json()).settings.min_size == 77


@pytest.mark.parametrize("profile", BROKERS)
def test_the_sample_of_a_profile_is_that_profile(tmp_path: Path, profile: str) -> None:
    """As it is, and with every line made active."""
    text = CliRunner().invoke(tierfs, ["config", "sample", "--profile", profile]).output
    assert text == sample(profile)
    (tmp_path / "t.toml").write_text(text)
    assert list(read_file(str(tmp_path / "t.toml"))) == ["profile"]
    assert gather(str(tmp_path / "t.toml"), {}, {}).settings == settings_of(profile)
    active = "\n".join(line[1:] if line.startswith("#") and line[1:2] != " " else line for line in text.splitlines())
    (tmp_path / "t.toml").write_text(active)
    assert gather(str(tmp_path / "t.toml"), {}, {}).settings == settings_of(profile)


def test_config_show_says_what_comes_from_the_profile(tmp_path: Path) -> None:
    shown = (
        CliRunner().invoke(tierfs, ["config", "show", "--profile", "kafka", "--keep-newest", "5"]).output.splitlines()
    )
    assert 'profile = "kafka"  # --profile' in shown
    assert 'warm_after = "1h"  # warm_after in profile kafka' in shown
    assert "keep_newest = 5  # --keep-newest" in shown
    assert 'settle = "30s"  # default' in shown


@pytest.mark.parametrize("profile", BROKERS)
def test_side_files_that_move_are_part_of_a_segment(profile: str) -> None:
    settings = settings_of(profile)
    included = {pattern.rpartition("/")[2] for pattern in settings.include}
    assert set(settings.keep_hot) & included <= set(settings.segments)


# -- the files of the brokers ----------------------------------------------------------------------------------------

OLD, NEWEST = "0" * 20, f"{5000:020}"
MOVED, KEPT, NEVER = "moved", "archived and kept hot", "left alone"
FILES = {
    "kafka": {
        f"orders-0/{OLD}.log": MOVED,
        f"orders-0/{OLD}.index": KEPT,
        f"orders-0/{OLD}.timeindex": KEPT,
        f"orders-0/{OLD}.txnindex": KEPT,
        f"orders-0/{OLD}.snapshot": KEPT,
        f"orders-0/{99:020}.log": NEVER,
        f"orders-0/{NEWEST}.log": NEVER,
        f"orders-0/{NEWEST}.index": NEVER,
        f"orders-0/{NEWEST}.timeindex": NEVER,
        f"orders-0/{9000:020}.snapshot": NEVER,
        f"orders-0/{OLD}.log.deleted": NEVER,
        f"orders-0/{OLD}.log.cleaned": NEVER,
        f"orders-0/{OLD}.log.swap": NEVER,
        f"orders-0/{OLD}.index.swap": NEVER,
        "orders-0/leader-epoch-checkpoint": NEVER,
        "orders-0/partition.metadata": NEVER,
        f"__consumer_offsets-7/{OLD}.log": NEVER,
        f"__transaction_state-7/{OLD}.log": NEVER,
        f"__cluster_metadata-0/{OLD}.log": NEVER,
        f"__cluster_metadata-0/{OLD}-0000000000.checkpoint": NEVER,
        "meta.properties": NEVER,
        "bootstrap.checkpoint": NEVER,
        "recovery-point-offset-checkpoint": NEVER,
        "replication-offset-checkpoint": NEVER,
        "log-start-offset-checkpoint": NEVER,
        ".kafka_cleanshutdown": NEVER,
        ".lock": NEVER,
    },
    "nats": {
        "jetstream/$G/streams/S/msgs/9.blk": MOVED,
        "jetstream/$G/streams/S/msgs/10.blk": NEVER,
        "jetstream/$G/streams/S/msgs/9.idx": NEVER,
        "jetstream/$G/streams/S/msgs/9.fss": NEVER,
        "jetstream/$G/streams/S/msgs/9.key": NEVER,
        "jetstream/$G/streams/S/msgs/index.db": NEVER,
        "jetstream/$G/streams/S/__msgs__/3.blk": NEVER,
        "jetstream/$G/streams/S/meta.inf": NEVER,
        "jetstream/$G/streams/S/meta.sum": NEVER,
        "jetstream/$G/streams/S/obs/C/o.dat": NEVER,
    },
    "rabbitmq": {
        f"rabbit@host/stream/__s_1/{OLD}.segment": MOVED,
        f"rabbit@host/stream/__s_1/{OLD}.index": KEPT,
        f"rabbit@host/stream/__s_1/{NEWEST}.segment": NEVER,
        f"rabbit@host/stream/__s_1/{NEWEST}.index": NEVER,
        "rabbit@host/quorum/rabbit@host/2F_A/00000001.segment": MOVED,
        "rabbit@host/quorum/rabbit@host/2F_A/00000002.segment": NEVER,
        "rabbit@host/quorum/rabbit@host/2F_A/snapshots/1_2/snapshot.dat": NEVER,
        "rabbit@host/quorum/rabbit@host/2F_A/config": NEVER,
        "rabbit@host/quorum/rabbit@host/00000003.wal": NEVER,
        "rabbit@host/quorum/rabbit@host/meta.dets": NEVER,
        "rabbit@host/coordination/rabbit@host/2F_B/00000001.segment": NEVER,
        "rabbit@host/msg_stores/vhosts/V/msg_store_persistent/0.rdq": NEVER,
        "rabbit@host/msg_stores/vhosts/V/queues/Q/0.idx": NEVER,
        "rabbit@host/rabbit_durable_queue.DCD": NEVER,
        "rabbit@host/LATEST.LOG": NEVER,
        "stream/__s_1/00000000000000000000.segment": MOVED,
        f"stream/__s_1/{NEWEST}.segment": NEVER,
    },
}


def of_broker(path: str, residency: Residency) -> HotFile:
    then = NOW - 100 * DAY_NS
    return HotFile(path.encode(), stat.S_IFREG | 0o644, 1, 1 << 20, then, then, residency)


@pytest.mark.parametrize("profile", BROKERS)
def test_what_a_profile_does_with_the_files_of_its_broker(profile: str) -> None:
    """Old as they are, and none of them open."""
    settings, fill = settings_of(profile), Fill(0, 0, 1)
    archived = {one.path.decode() for one in plan(_all_of(profile, Residency.HOT), fill, settings, NOW)}
    released = {one.path.decode() for one in plan(_all_of(profile, Residency.MIRRORED), fill, settings, NOW)}
    expected = FILES[profile]
    assert archived == {path for path, fate in expected.items() if fate is not NEVER}
    may_go = {path for path in released if why_for_good(of_broker(path, Residency.HOT), settings) is None}
    assert may_go == {path for path, fate in expected.items() if fate is MOVED}
    assert all(matches(path.encode(), settings.keep_hot) for path, fate in expected.items() if fate is KEPT)


def _all_of(profile: str, residency: Residency) -> list[HotFile]:
    return [of_broker(path, residency) for path in FILES[profile]]
