"""Cgroup paths from real machines, and their display names."""

from __future__ import annotations

import pytest

from ebpfmon.grouping.cgroups import display_name

ID = "4f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8"
OTHER_ID = "0123456789ab" + "c" * 52
ID12 = "4f1a2b3c4d5e"
UID = "7f3c9a1e-2b4d-4c6e-8f10-a1b2c3d4e5f6"
UID_ = UID.replace("-", "_")
UUID = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
HEX32 = "d41d8cd98f00b204e9800998ecf8427e"
USER = "/user.slice/user-1000.slice"
OWN = f"{USER}/user@1000.service"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"


def check(path: str, expected: str) -> None:
    assert display_name(path) == expected


@pytest.mark.parametrize("path", ["/", "", "/..", "/../.."])
def test_the_root_has_a_name(path: str) -> None:
    check(path, "root")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/../system.slice/nginx.service", "nginx.service"),  # As seen from another cgroup namespace.
        ("/system.slice/nginx.service (deleted)", "nginx.service"),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        (
            "/system.slice/system-systemd\\x2dfsck.slice/systemd-fsck@dev-disk-by\\x2duuid-1A2B\\x2d3C4D.service",
            "systemd-fsck@dev-disk-by-uuid-1A2B-3C4D.service",
        ),
        ("/system.slice/caf\\xc3\\xa9.service", "café.service"),
        ("/system.slice/odd\\x0aname.service", "odd\\x0aname.service"),
        ("/system.slice/systemd-udevd.service/udev", "systemd-udevd.service"),
        ("/system.slice/containerd.service", "containerd.service"),
        ("/system.slice/php8.2-fpm.service", "php8.2-fpm.service"),
        ("/system.slice/postgresql-15.service", "postgresql-15.service"),
        ("/system.slice/run-u1234.service", "run.service"),
        (f"/system.slice/run-r{HEX32}.scope", "run.scope"),
        ("/system.slice/run-p4321-i4322.service", "run.service"),
        (
            "/system.slice/system-ssh.slice/ssh@12-4097-10.0.0.5:22-10.0.0.9:51234.service",
            "ssh.service",
        ),
        ("/system.slice/web.service/libpod-payload-" + ID, "web.service"),  # A quadlet whose cgroup is split.
        ("/init.scope", "init.scope"),
        ("/system.slice", "system.slice"),
        ("/azure.slice/walinuxagent.service", "walinuxagent.service"),
    ],
)
def test_a_service_has_the_name_of_its_unit(path: str, expected: str) -> None:
    check(path, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{USER}/session-2.scope", "user-1000"),
        (f"{USER}/session-c1.scope", "user-1000"),
        (USER, "user-1000"),
        (OWN, "user-1000"),
        (f"{OWN}/init.scope", "user-1000"),
        ("/user.slice/user-0.slice/session-14.scope", "user-0"),
        (f"{OWN}/session.slice/org.gnome.Shell@wayland.service", "org.gnome.Shell@wayland.service"),
        (f"{OWN}/app.slice/syncthing.service", "syncthing.service"),
        (f"{OWN}/app.slice/app-gnome-firefox-12345.scope", "app-gnome-firefox.scope"),
        (f"{OWN}/app.slice/app-flatpak-org.mozilla.firefox-2817.scope", "app-flatpak-org.mozilla.firefox.scope"),
        (f"{OWN}/app.slice/app-org.kde.konsole@{HEX32}.service", "app-org.kde.konsole.service"),
        (f"{OWN}/app.slice/app-org.kde.konsole-4242.scope/tab(4250).scope", "app-org.kde.konsole.scope"),
        (
            f"{OWN}/app.slice/app-gnome\\x2dkeyring\\x2dssh@autostart.service",
            "app-gnome-keyring-ssh@autostart.service",
        ),
        (f"{OWN}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{UUID}.scope", "vte-spawn.scope"),
        (f"{OWN}/app.slice/snap.firefox.firefox-{UUID}.scope", "snap.firefox.firefox.scope"),
        (f"{OWN}/tmux-spawn-{UUID}.scope", "tmux-spawn.scope"),
        (
            f"{OWN}/app.slice/app-dbus\\x2d:1.2\\x2dorg.x.slice/dbus-:1.2-org.a11y.atspi.Registry@0.service",
            "dbus-org.a11y.atspi.Registry.service",
        ),
    ],
)
def test_a_users_processes_belong_to_the_application_or_to_the_user(path: str, expected: str) -> None:
    check(path, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{ID}", f"docker-{ID12}"),
        (f"/docker/{ID}/init", f"docker-{ID12}"),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID12}"),
        (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", f"docker-{ID12}"),
        (f"/docker/{ID}/docker/{OTHER_ID}", f"docker-{ID12}"),
        (f"/compose.slice/docker-{ID}.scope", f"docker-{ID12}"),
        (f"{OWN}/user.slice/docker-{ID}.scope", f"docker-{ID12}"),  # rootless
        (f"/system.slice/system.slice:docker:{ID}", f"docker-{ID12}"),
        ("/docker/buildkit/x3k9q0v5w8z7y6u5t4s3r2q1p", "buildkit"),
        (f"/ecs/cluster/0a1b2c3d/{ID}", f"container-{ID12}"),
        (f"/{ID}", f"container-{ID12}"),
        (f"/system.slice/cri-containerd-{ID}.scope", f"containerd-{ID12}"),
        (f"/system.slice/nerdctl-{ID}.scope", f"containerd-{ID12}"),
        (f"/default/{ID}", f"containerd-{ID12}"),
        (f"/k8s.io/{ID}", f"containerd-{ID12}"),
        ("/default/redis", "redis"),  # `ctr run` lets users choose the ID.
        (f"/machine.slice/libpod-{ID}.scope", f"podman-{ID12}"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"podman-{ID12}"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"podman-{ID12}"),
        (f"{OWN}/user.slice/libpod-{ID}.scope/container", f"podman-{ID12}"),
        (f"{OWN}/user.slice/user-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope", f"podman-{ID12}"),
        (f"/libpod_parent/libpod-{ID}", f"podman-{ID12}"),
        (f"/machine.slice/machine-libpod_pod_{ID}.slice", f"machine-libpod_pod_{ID12}.slice"),
        (f"/system.slice/crio-{ID}.scope", f"crio-{ID12}"),
    ],
)
def test_a_container_is_named_by_its_runtime_and_short_id(path: str, expected: str) -> None:
    check(path, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/kubepods/burstable/pod{UID}/{ID}", f"pod-7f3c9a1e/{ID12}"),
        (f"/kubepods/pod{UID}/{ID}", f"pod-7f3c9a1e/{ID12}"),
        (f"/kubepods/besteffort/pod{UID}", "pod-7f3c9a1e"),
        (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope", f"pod-7f3c9a1e/{ID12}"),
        (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope", f"pod-7f3c9a1e/{ID12}"),
        (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/crio-{ID}.scope/container", f"pod-7f3c9a1e/{ID12}"),
        (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/crio-conmon-{ID}.scope", f"pod-7f3c9a1e/{ID12}"),
        (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice", "pod-7f3c9a1e"),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", f"pod-7f3c9a1e/{ID12}"),
        (f"/kubepods.slice/kubepods-pod{HEX32}.slice/cri-containerd-{ID}.scope", f"pod-d41d8cd9/{ID12}"),  # static
        (
            f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
            f"pod-7f3c9a1e/{ID12}",
        ),
        (
            f"/docker/{OTHER_ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
            f"kubelet-kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope",
            f"pod-7f3c9a1e/{ID12}",
        ),  # kind
        (f"/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER_ID}", f"pod-7f3c9a1e/{ID12}"),
        (BURSTABLE, "kubepods-burstable.slice"),
    ],
)
def test_a_container_of_kubernetes_is_named_with_its_pod(path: str, expected: str) -> None:
    check(path, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lxc/web", "web"),
        ("/lxc/101/ns/system.slice/nginx.service", "101"),
        ("/lxc.payload.web", "web"),
        ("/lxc.payload.web/system.slice/nginx.service", "web"),
        ("/lxc.payload/web/init.scope", "web"),
        ("/lxc.monitor.web", "web"),
        ("/lxc.pivot", "lxc.pivot"),
        ("/system.slice/lxc.service", "lxc.service"),
        ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", "vm"),
        ("/machine.slice/machine-qemu\\x2d12\\x2dweb\\x2d01.scope/libvirt/vcpu0", "web-01"),
        ("/machine.slice/machine-lxc\\x2d3512\\x2dbuild.scope", "build"),
        ("/machine.slice/machine-debian\\x2dtest.scope", "debian-test"),
        ("/machine.slice/systemd-nspawn@arch.service/payload/system.slice/sshd.service", "arch"),
        ("/machine/qemu-7-vm.libvirt-qemu/emulator", "vm"),
    ],
)
def test_a_virtual_machine_has_its_own_name(path: str, expected: str) -> None:
    check(path, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/openrc/nginx", "nginx"), ("/mine/batch\\x2djobs", "batch-jobs"), ("relative/path/", "path")],
)
def test_any_other_cgroup_is_named_by_its_last_component(path: str, expected: str) -> None:
    check(path, expected)
