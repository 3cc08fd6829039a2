"""The groups file: the meaning of its lines, messages about invalid lines, and the default groups."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.errors import SettingsError
from ebpfmon.grouping.groups import DEFAULT_PATH, Groups, truncate_comm


def parsed(text: str) -> Groups:
    groups = Groups.parse(text, "apps.conf")
    assert not groups.problems
    return groups


def problem(line: str) -> str:
    groups = Groups.parse(f"first: a\n{line}\nlast: z", "apps.conf")
    assert (groups.names, groups.match("a", ""), groups.match("z", "")) == (("first", "last"), "first", "last")
    (message,) = groups.problems
    assert message.startswith("apps.conf:2: ")
    return message.removeprefix("apps.conf:2: ")


@pytest.mark.parametrize(
    ("pattern", "comm", "command_line", "fits"),
    [
        ("nginx", "nginx", "", True),
        ("nginx", "nginx2", "", False),
        ("nginx", "Nginx", "", False),
        ("systemd-journald", "systemd-journal", "", True),
        ("php*", "php-fpm8.2", "", True),
        ("php*", "php", "", True),
        ("php*", "xphp", "", False),
        ("systemd-journald*", "systemd-journal", "", True),
        ("*.plugin", "go.d.plugin", "", True),
        ("*.plugin", "plugin", "", False),
        ("*kafka.Kafka*", "java", "/usr/bin/java -Xmx1G kafka.Kafka server.properties", True),
        ("*kafka.Kafka*", "kafka.Kafka", "/usr/bin/java", False),
        ("*kworker*", "kworker/0:1", "", True),  # Without a command line, the comm is used.
        ("'*a program as long as it likes*'", "x", "run a program as long as it likes", True),
        ("fi*fox", "firefox", "", True),
        ("fi*fox", "fifox", "", True),
        ("fi*fox", "fifo", "", False),
        ("fi*fox", "a-firefox", "", False),
        ("a*b*c", "a-b-b-c", "", True),
        ("a*bc*c", "abc", "", False),  # No character may match two pieces.
        ("*py*3", "mypy-3", "", True),
        ("py*3*", "pypy3.11", "", True),
        ("*python3*bin/yugabyted*", "python3", "/usr/bin/python3 /opt/bin/yugabyted start", True),
        ("*python3*bin/yugabyted*", "python3", "/opt/bin/yugabyted python3", False),
        (r"a\*b*c", "a*b-c", "", True),
        (r"a\*b*c", "a-b-c", "", False),
        (r"a\*b", "a*b", "", True),
        (r"*C:\windows*", "x", r"C:\windows\notepad.exe", True),
        ("*", "anything", "", True),
        ("**", "", "", True),
        ("**x", "xx", "", True),
        ("'Web Content'", "Web Content", "", True),
        ('"Isolated Web Content"', "Isolated Web Co", "", True),
        ('"it\'s"', "it's", "", True),
        ("'say \"hi\"'", 'say "hi"', "", True),
        ("o'brien", "o'brien", "", True),
        ('"tmux: *"', "tmux: server", "", True),
        ('"*-m ebpfmon*"', "python3", "python3 -m ebpfmon run", True),
        ("'#1'", "#1", "", True),
        ("-hidden", "hidden", "", True),
        ("+debugged", "debugged", "", True),
        ("-*end", "the-end", "", True),
        ("'-two words'", "two words", "", True),
        ("-'two words'", "two words", "", True),
        ("g++", "g++", "", True),
        ("größe-und-länge", "größe-und-lä", "", True),  # 15 bytes
    ],
)
def test_a_pattern_matches_as_in_netdata(pattern: str, comm: str, command_line: str, fits: bool) -> None:
    assert parsed(f"group: {pattern}").match(comm, command_line) == ("group" if fits else None)


def test_the_first_matching_pattern_of_the_file_wins() -> None:
    lines = ["prefix: a*", "exact: abc xyz", "suffix: *z", "simple: x*y*z", "whole: *needle*", "rest: *"]
    expected = [
        ("abc", "needle", "prefix"), ("xyz", "needle", "exact"), ("xz", "needle", "suffix"), ("q", "needle", "whole"),
        ("xyyz", "", "suffix"), ("q", "", "rest"),
    ]  # fmt: skip
    for comm, command_line, group in expected:
        assert parsed("\n".join(lines)).match(comm, command_line) == group
    reverse = parsed("\n".join([*lines[4::-1], lines[5]]))
    found = [reverse.match(c, line) for c, line, _ in expected]
    assert found == ["whole", "whole", "whole", "whole", "simple", "rest"]
    assert reverse.match("abc", "") == "exact"
    assert parsed("rest: *\nlate: abc").match("abc", "") == "rest"


WORDS = st.text(st.sampled_from("ab*"), min_size=1, max_size=5)


@given(st.lists(WORDS, max_size=8), st.text("ab", max_size=6), st.text("ab", min_size=1, max_size=9))
def test_the_index_finds_the_same_group_as_a_linear_search(words: list[str], comm: str, command_line: str) -> None:
    def fits(word: str) -> bool:
        inside = word.strip("*")
        whole = bool(inside) and word[0] == word[-1] == "*"
        return fnmatch.fnmatchcase(command_line if whole else comm, word)

    groups = parsed("\n".join(f"g{n}: {word}" for n, word in enumerate(words)))
    assert groups.match(comm, command_line) == next((f"g{n}" for n, word in enumerate(words) if fits(word)), None)


@given(st.text())
def test_the_parser_accepts_any_text(text: str) -> None:
    groups = Groups.parse(text, "apps.conf")
    groups.match(text[:15], text)
    assert all(problem.isprintable() for problem in groups.problems)


def test_groups_are_in_the_order_of_the_file_without_duplicates() -> None:
    groups = parsed(" web: a # and: b\n\n  # no: one\r\n-db :c\nweb:b\n'my group': d\nother: *\n")
    assert groups.names == ("web", "db", "my group", "other")
    assert [groups.match(c, "") for c in "abcd#"] == ["web", "web", "db", "my group", "other"]


def test_a_command_line_is_needed_only_if_a_pattern_uses_it() -> None:
    assert not parsed("group: a a* *a a*b * ** *a*b a*b*").needs_command_line
    assert parsed("group: a *a*").needs_command_line
    assert parsed("group: *a*b*").needs_command_line
    assert not parsed("").needs_command_line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nginx apache2", "'nginx apache2': expected 'group: pattern ...'"),
        ("web # and: more", "'web # and: more': expected 'group: pattern ...'"),
        ("'my group' x: a", "''my group' x: a': expected 'group: pattern ...'"),
        (": a", "': a': the group has no name: expected 'group: pattern ...'"),
        ("-: a", "'-: a': the group has no name: expected 'group: pattern ...'"),
        ("'': a", "''': a': the group has no name: expected 'group: pattern ...'"),
        ("web: b 'c d", "'c d: the quote is not closed"),
        ("'web: b", "'web: b: the quote is not closed"),
        ("web:", "group 'web' has no patterns"),
        ("web: # nginx", "group 'web' has no patterns"),
        ("web: '' -", "group 'web' has no patterns"),
        ("managers: clear", "'managers' has a meaning only in Netdata and is ignored; remove the line"),
        ("interpreters: sh", "'interpreters' has a meaning only in Netdata and is ignored; remove the line"),
        ("bell\x07", "'bell\\x07': expected 'group: pattern ...'"),
    ],
)
def test_an_invalid_line_is_reported_and_the_others_are_used(line: str, message: str) -> None:
    assert problem(line) == message


def test_a_file_in_any_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "apps.conf"
    path.write_bytes("\ufeffweb: nginx\n# caf".encode() + b"\xe9\nbad\n")
    groups = Groups.read(path)
    assert groups.match("nginx", "") == "web"
    assert groups.problems == (f"{path}:3: 'bad': expected 'group: pattern ...'",)


def test_an_unreadable_file_raises_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(tmp_path))}/none: cannot be read: no such file$"):
        Groups.read(tmp_path / "none")
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(tmp_path))}: cannot be read: "):
        Groups.read(tmp_path)


DEFAULT = Groups.read(DEFAULT_PATH)


def test_the_default_groups_have_no_problems() -> None:
    assert DEFAULT.problems == ()
    assert 80 <= len(DEFAULT.names) <= 120
    assert DEFAULT.names[0] == "ebpfmon"


def test_no_default_pattern_is_hidden_by_an_earlier_one() -> None:
    words = [
        (line.partition(":")[0], word.strip('"'))
        for line in DEFAULT_PATH.read_text().splitlines()
        if not line.startswith("#")
        for word in re.findall(r'"[^"]*"|\S+', line.partition(":")[2])
    ]
    assert len(words) > 1000
    for group, word in words:
        inner, whole = word.strip("*"), word[0] == word[-1] == "*"
        comm = truncate_comm(inner.replace("*", ""))
        assert DEFAULT.match(comm, f"/bin/x {inner} y" if whole else comm) == group, word
    assert len({word for _, word in words}) == len(words)


@pytest.mark.parametrize(
    ("group", "comms"),
    [
        ("ebpfmon", "ebpfmon"),
        ("kernel", "kthreadd kworker/0:1 kworker/u8:3-events_unbound ksoftirqd/3 kswapd0 rcu_preempt migration/0"),
        ("kernel-storage", "jbd2/sda1-8 xfsaild/dm-0 md0_raid1 scsi_eh_0"),
        ("nginx", "nginx"),
        ("apache", "apache2 httpd"),
        ("php", "php-fpm8.2 php"),
        ("postgres", "postgres psql pgbench pg_dump pgbouncer"),
        ("redis", "redis-server redis-cli redis-benchmark redis-check-rdb valkey-server"),
        ("mysql", "mysqld mariadbd mysqldump"),
        ("exporters", "node_exporter redis_exporter"),
        ("java", "java"),
        ("python", "python3 python3.11 gunicorn uwsgi pytest"),
        ("compilers", "gcc cc1 cc1plus as ld collect2 g++ clang-15 x86_64-linux-gn gcc-12 ld.bfd lto1"),
        ("build", "make ninja cmake configure"),
        ("packages", "apt apt-get dpkg dpkg-deb dnf rpm snapd"),
        ("containers", "dockerd containerd containerd-shim runc podman conmon"),
        ("kubernetes", "kubelet kube-apiserver kube-proxy"),
        ("virtual-machines", "qemu-system-x86 libvirtd"),
        ("guest-agent", "qemu-ga"),
        ("logging", "systemd-journal rsyslogd"),
        ("dns", "systemd-resolve named"),
        ("time", "systemd-timesyn chronyd"),
        ("login", "systemd-logind"),
        ("udev", "systemd-udevd (udev-worker)"),
        ("init", "systemd (sd-pam) systemd-executo init (nginx)"),
        ("shell", "bash zsh fish tmux"),
        ("cron", "cron crond CRON"),
        ("browsers", "firefox firefox-esr chrome chromium"),
        ("terminals", "gnome-terminal- konsole"),
        ("gnome", "gnome-shell gsd-power"),
    ],
)
def test_the_default_groups_cover_common_programs(group: str, comms: str) -> None:
    for comm in comms.split():
        assert DEFAULT.match(comm, f"/usr/bin/{comm}") == group, comm


@pytest.mark.parametrize("comm", ["sh", "dash", "sudo", "env", "xargs", "true", "cat", "grep"])
def test_common_tools_inherit_their_group(comm: str) -> None:
    assert DEFAULT.match(comm, comm) is None


def test_java_and_python_applications_are_recognised_by_command_line() -> None:
    assert DEFAULT.match("java", "java -cp libs/* kafka.Kafka config/server.properties") == "kafka"
    assert DEFAULT.match("java", "java -cp lib org.elasticsearch.bootstrap.Elasticsearch") == "elasticsearch"
    assert DEFAULT.match("python3", "python3 -m ebpfmon run") == "ebpfmon"
    assert DEFAULT.match("Isolated Web Co", "/usr/lib/firefox-esr/firefox-esr -contentproc") == "browsers"
    assert DEFAULT.match("compile", "/usr/lib/go-1.19/pkg/tool/linux_amd64/compile -o x") == "golang"
