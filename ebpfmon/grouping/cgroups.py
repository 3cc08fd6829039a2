"""Name a cgroup by its path alone, without asking a container runtime."""

from __future__ import annotations

import re

_ID = r"(?P<{}>[0-9a-f]{{12}})[0-9a-f]{{52}}"

_POD = re.compile(r"kubepods.*?[-/]pod(?P<uid>[0-9a-f]{8})[0-9a-f_-]*")

# The outermost container gives the name, rather than a service or a container inside it.
_CONTAINER = re.compile(
    rf"""/(?:
        (?:[^/]*:)?(?P<runtime>docker|libpod|crio|nerdctl|(?:cri-)?containerd)(?:-conmon)?[-:]{_ID.format("named")}(?:\.scope)?
      | (?:(?P<parent>[^/]+)/)?{_ID.format("bare")}
      | (?P<buildkit>buildkit|buildx)/[^/]+
      | lxc(?:\.(?:payload|monitor)[./]|/)(?P<lxc>[^/]+)
      | machine-(?P<machine>[^/]+)\.scope
      | systemd-nspawn@(?P<nspawn>[^/]+)\.service
      | (?P<libvirt>[^/]+)\.libvirt-(?:qemu|lxc)
    )(?=/|$)""",
    re.VERBOSE,
)
_RUNTIMES = {
    "docker": "docker", "libpod": "podman", "libpod_parent": "podman", "crio": "crio", "nerdctl": "containerd",
    "containerd": "containerd", "cri-containerd": "containerd", "default": "containerd", "k8s.io": "containerd",
    "moby": "docker",
}  # fmt: skip
_LIBVIRT = re.compile(r"^(?:qemu|lxc|xen|ch)-\d+-")

_USER = re.compile(r"/user-(?P<uid>\d+)\.slice(?=/|$)(?P<slices>.*?/user@\d+\.service(?=/|$))?")
_UNIT = re.compile(r"/([^/]+\.(?:service|scope|mount|swap|socket))(?=/|$)")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RANDOM = re.compile(
    rf"""(?:
        [-.@](?:{_UUID}|[0-9a-f]{{32}})
      | (?<=run)-(?:u\d+|r[0-9a-f]{{32}}|p\d+-i\d+)   # systemd-run
      | @\d+-\d+[^/]*(?=\.service$)                   # a service instance for one connection to a socket
      | -\d+(?=\.scope$)                              # the PID of a desktop application
    )(?=\.(?:service|scope)$)""",
    re.VERBOSE,
)
_BUS_NAME = re.compile(r"^dbus-:[\d.]+-(.+?)(?:@\d+)?(?=\.service$)")
_LONG_ID = re.compile(_ID.format("short"))
_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")


def display_name(path: str) -> str:
    r"""Return a display name for the cgroup with this path (version 1 or 2, as in /proc/PID/cgroup).

    A container is called `RUNTIME-ID`, with the first 12 characters of its ID, or `pod-UID/ID` in Kubernetes. Virtual
    machines and LXC containers have their own names, services the name of their unit, and sessions the name of their
    user (`user-1000`). The root cgroup is called `root`, and any other cgroup by the last component of its path. Random
    parts of names are left out, and escapes such as `\x2d` are decoded.
    """
    path = "/" + "/".join(c for c in path.removesuffix(" (deleted)").split("/") if c not in ("", ".", ".."))
    if path == "/":
        return "root"
    return _pod(path) or _container(path) or _user(path) or _unit(path) or _last(path)


def _pod(path: str) -> str | None:
    pod = _POD.search(path)
    if not pod:
        return None
    container = _LONG_ID.search(path, pod.end())
    return f"pod-{pod['uid']}/{container['short']}" if container else f"pod-{pod['uid']}"


def _container(path: str) -> str | None:
    match = _CONTAINER.search(path)
    if not match:
        return None
    match match.lastgroup:
        case "named":
            return f"{_RUNTIMES[match['runtime']]}-{match['named']}"
        case "bare":
            return f"{_RUNTIMES.get(match['parent'] or '', 'container')}-{match['bare']}"
        case "buildkit":
            return "buildkit"
        case kind:
            return _LIBVIRT.sub("", _unescape(match[kind or 0]))


def _user(path: str) -> str | None:
    """Return the unit that a user's own systemd manager started, or else the name of the user."""
    user = _USER.search(path)
    if not user:
        return None
    unit = _unit(path[user.end() :]) if user["slices"] else None
    return unit if unit and unit != "init.scope" else f"user-{user['uid']}"


def _unit(path: str) -> str | None:
    unit = _UNIT.search(path)
    return _unescape(_BUS_NAME.sub(r"dbus-\1", _RANDOM.sub("", unit[1]))) if unit else None


def _last(path: str) -> str:
    return _unescape(_LONG_ID.sub(r"\g<short>", path.rpartition("/")[2]))


def _unescape(name: str) -> str:
    r"""Return a systemd name with its escapes decoded (`\x2d` is `-`), except those of unprintable characters."""
    return _ESCAPED.sub(_unescape_match, name)


def _unescape_match(escaped: re.Match[str]) -> str:
    text = bytes.fromhex(escaped[0].replace("\\x", "")).decode("utf-8", "replace")
    return text if text.isprintable() else escaped[0]
