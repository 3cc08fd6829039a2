"""The registry of groupings, and lookups shared by several groupings."""

from __future__ import annotations

import math
import pkgutil
import re
import types
from pathlib import Path

from ebpfmon.grouping import by
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity, Intersection
from ebpfmon.grouping.registry import DEFAULT_GROUPING, Context, groupings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "groupings.md"
CONTEXT = Context(groups=Groups.parse("web: nginx\nother: sh\n", "test"), execs_since_ns=math.inf)
OTHERS = ("process", "user", "container")
NGINX = Identity(1, 60, 1, 7, 1, 1000, b"nginx")


def test_every_module_of_the_package_is_a_grouping_in_a_fixed_order() -> None:
    assert list(groupings()) == ["application", "process", "user", "container"]
    assert sorted(groupings()) == sorted(found.name for found in pkgutil.iter_modules(by.__path__))
    assert DEFAULT_GROUPING in groupings()


def test_names_and_prefixes_are_valid_unique_and_stable() -> None:
    found = groupings()
    assert all(name == grouping.name for name, grouping in found.items())
    assert all(re.fullmatch(r"[a-z]+", text) for g in found.values() for text in (g.name, g.prefix))
    assert len({g.prefix for g in found.values()}) == len(found)
    # Dashboards use these in their queries, so they must not change.
    kept = {"application": "apps", "process": "processes", "user": "users", "container": "containers"}
    assert kept.items() <= {name: g.prefix for name, g in found.items()}.items()


def test_the_reference_and_the_sample_settings_list_every_grouping() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    settings = (ROOT / "ebpfmon" / "install" / "files" / "ebpfmon.toml").read_text()
    (by,) = re.findall(r"^by = .*", settings, re.M)
    for grouping in groupings().values():
        assert f'| `"{grouping.name}"` | `{grouping.prefix}.*` | `{grouping.name}` |' in page
        assert f'"{grouping.name}"' in by.partition("#")[2]


def test_the_page_lists_every_grouping_and_its_sample_works() -> None:
    page = PAGE.read_text()
    for grouping in groupings().values():
        assert f"| `{grouping.name}` | `{grouping.prefix}.*` |" in page
    sample = types.ModuleType("sample")
    exec(page.partition("```python\n")[2].partition("```")[0], vars(sample))
    naming = sample.GROUPING.make(CONTEXT)
    assert naming.name(NGINX) == ("user", True)
    assert naming.name(NGINX._replace(parent_tgid=2)) == ("kernel", True)
    assert not naming.request([NGINX])


def test_only_applications_need_execs_and_the_groups_file() -> None:
    found = groupings()
    assert found["application"].uses_execs
    assert found["application"].uses_groups_file
    assert not any(found[name].uses_execs or found[name].uses_groups_file for name in OTHERS)


def test_one_lookup_serves_all_groupings() -> None:
    namings = {name: grouping.make(CONTEXT) for name, grouping in groupings().items()}
    request = LookupRequest()
    for naming in namings.values():
        request |= naming.request([NGINX])
    assert (request.processes, request.users, request.cgroups) == ((60,), (1000,), (7,))
    for naming in namings.values():
        naming.receive(
            LookupResult(processes={60: None}, users={1000: "alice"}, cgroups={7: "/system.slice/nginx.service"})
        )
    expected = {"application": "web", "process": "nginx", "user": "alice", "container": "nginx.service"}
    assert {name: namings[name].name(NGINX) for name in expected} == {n: (group, True) for n, group in expected.items()}


def test_requests_of_two_groupings_are_merged() -> None:
    both = LookupRequest(processes=(1, 2), users=(3,)) | LookupRequest(processes=(2, 4), cgroups=(5,))
    assert both == LookupRequest(processes=(1, 2, 4), users=(3,), cgroups=(5,))
    assert not LookupRequest() | LookupRequest()


def test_ancestors_are_known_only_if_every_grouping_knows_them() -> None:
    namings = {name: grouping.make(CONTEXT) for name, grouping in groupings().items()}
    assert 60 not in Intersection(naming.known for naming in namings.values())
    assert 60 in Intersection(namings[name].known for name in OTHERS), "none of them needs ancestors"
    assert 60 not in Intersection([{60}, {61}])


def test_other_in_the_groups_file_means_no_group_but_a_program_may_be_named_other() -> None:
    shell = NGINX._replace(tgid=0, comm=b"sh")  # The idle task needs no lookup.
    assert groupings()["application"].make(CONTEXT).name(shell) == (None, True)
    assert groupings()["process"].make(CONTEXT).name(NGINX._replace(comm=b"other")) == ("other", True)
