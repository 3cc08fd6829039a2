"""Detection of other facts about the machine, below a temporary root."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from ebpfmon.kernel import views
from ebpfmon.kernel.host import Bcc, Config, Host, detect
from ebpfmon.kernel.kconfig import EFFECTS, paths
from tests.unit.test_features import make

ALL = "".join(f"CONFIG_{option}=y\n" for option in EFFECTS)


def test_an_empty_root_has_no_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert detect("9.9", tmp_path, ()) == Host(
        config=Config(None, paths("9.9")), securityfs=None, memlock_bytes=None, unprivileged_bpf_disabled=None,
        selinux=None, selinux_domain=None, bcc=None, headers=None, views=views.detect(tmp_path),
    )  # fmt: skip


def test_options_that_are_not_set_have_their_effect(tmp_path: Path) -> None:
    path = make(tmp_path, **{"boot__config-9.9": ALL})
    assert detect("9.9", path).config == Config("/boot/config-9.9", paths("9.9"))
    make(tmp_path, **{"boot__config-9.9": ALL.replace("CONFIG_FPROBE=y", "# CONFIG_FPROBE is not set")})
    assert detect("9.9", path).config.missing == {"FPROBE": EFFECTS["FPROBE"]}


def test_memlock_is_the_soft_limit() -> None:
    assert detect("9.9").memlock_bytes in (resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], None)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_unprivileged_bpf_disabled_is_a_number(tmp_path: Path, value: int) -> None:
    make(tmp_path, proc__sys__kernel__unprivileged_bpf_disabled=f"{value}\n")
    assert detect("9.9", tmp_path).unprivileged_bpf_disabled == value


@pytest.mark.parametrize(("enforce", "expected"), [("0", "permissive"), ("1", "enforcing")])
def test_selinux_has_a_mode_and_the_domain_of_this_process(tmp_path: Path, enforce: str, expected: str) -> None:
    make(tmp_path, sys__fs__selinux__enforce=enforce)
    assert (detect("9.9", tmp_path).selinux, detect("9.9", tmp_path).selinux_domain) == (expected, None)
    make(tmp_path, proc__self__attr__current="system_u:system_r:unconfined_service_t:s0-s0:c0.c1023\x00")
    assert detect("9.9", tmp_path).selinux_domain == "unconfined_service_t"


def test_the_label_of_another_security_module_is_not_a_domain(tmp_path: Path) -> None:
    make(tmp_path, proc__self__attr__current="a:b:c (enforce)")
    assert detect("9.9", tmp_path).selinux_domain is None


@pytest.mark.parametrize(
    "place", ["/usr/lib/python3/dist-packages", "/usr/lib/python3.12/site-packages", "/venv/site-packages"]
)
def test_bcc_is_found_in_the_directories_of_distributions_and_of_this_python(tmp_path: Path, place: str) -> None:
    (tmp_path / place[1:] / "bcc").mkdir(parents=True)
    assert detect("9.9", tmp_path, ("/venv/site-packages",)).bcc is None  # PyPI's unrelated package has no libbcc.py
    (tmp_path / place[1:] / "bcc/libbcc.py").touch()
    assert detect("9.9", tmp_path, ("/venv/site-packages",)).bcc == Bcc(place, None)
    (tmp_path / place[1:] / "bcc/version.py").write_text("__version__ = '0.26.0'\n")
    assert detect("9.9", tmp_path, ("/venv/site-packages",)).bcc == Bcc(place, "0.26.0")


def test_headers_are_a_tree_or_an_archive_but_not_a_dangling_link(tmp_path: Path) -> None:
    modules = tmp_path / "lib/modules/9.9"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(tmp_path / "usr/src/linux-headers-9.9")
    assert detect("9.9", tmp_path).headers is None
    assert (
        detect("9.9", make(tmp_path, **{"sys__kernel__kheaders.tar.xz": ""})).headers == "/sys/kernel/kheaders.tar.xz"
    )
    (tmp_path / "usr/src/linux-headers-9.9").mkdir(parents=True)
    assert detect("9.9", tmp_path).headers == "/lib/modules/9.9/build"


def test_a_kernel_config_that_is_a_fifo_holds_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    os.mkfifo(tmp_path / "boot/config-9.9")
    assert detect("9.9", tmp_path).config.path is None
    make(tmp_path, **{"lib__modules__9.9__config": ALL})
    assert detect("9.9", tmp_path).config.path == "/lib/modules/9.9/config"
