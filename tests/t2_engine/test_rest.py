"""The REST API over real connections and a real engine: figures, files of any name, moves, jobs, pins, refusals."""

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
import trio
from pydantic import TypeAdapter

from tests.assembly import Machine, World
from tests.t2_engine.test_service import operator_of
from tierfs.admin import rest_work, wire
from tierfs.admin.control import serve
from tierfs.admin.gateway import Gateway, api_of
from tierfs.admin.shapes_cost import Cost
from tierfs.core.config import Settings
from tierfs.core.errors import AccessDenied, DeadlineExceeded, StoreUnavailable, TierfsError

TOKEN = "a-token-of-some-length"
TIERED = "/api/v1/tiered"
#: Names that a URL, a route or JSON could stumble over.
ODD_NAMES = [
    b"plain",
    b"\xff\xfe",
    b"new\nline",
    b"per%41cent",
    b"que?ry#",
    b"sp ace+",
    b'"\\',
    "ü".encode(),
    b"~.;:@&=",
]
CREDENTIALS = "https://user:secret@localhost:1"


@dataclass(frozen=True, slots=True)
class Stage:
    """A machine, and a client of its API."""

    machine: Machine
    http: httpx.AsyncClient

    async def get(self, path: str, status: int = 200) -> Any:
        """What is answered."""
        return self.checked(await self.http.get(path), status)

    async def post(self, verb: str, status: int = 200, **body: object) -> Any:
        """What a move is answered."""
        content = json.dumps(body)  # ASCII, with lone surrogates
        headers = {"content-type": "application/json"}
        return self.checked(await self.http.post(f"{TIERED}/{verb}", content=content, headers=headers), status)

    def checked(self, answer: httpx.Response, status: int) -> Any:
        """The body of an answer; a refusal has one of the form that is promised."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.content.isascii()
        body = answer.json()
        if status >= 400:
            assert set(body) == {"error"}
            assert set(body["error"]) == {"kind", "message"}
        return body


@asynccontextmanager
async def staged(world: World) -> AsyncIterator[Stage]:
    """The API over TCP."""
    token = world.hot.parent / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    settings = Settings.of(
        **world.settings.model_dump(mode="json")
        | {"api_address": "127.0.0.1:0", "api_token_file": str(token), "endpoint_url": CREDENTIALS}
    )
    gateway = Gateway(settings)
    gateway.open()
    async with world.running() as machine, trio.open_nursery() as nursery:
        operator = operator_of(machine)
        await nursery.start(operator.own_jobs)
        nursery.start_soon(gateway.serve, api_of(machine.tree, operator, settings))
        async with httpx.AsyncClient(
            base_url=f"http://{gateway.address}",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        ) as http:
            yield Stage(machine, http)
        nursery.cancel_scope.cancel()


def at(name: bytes, kind: str = "segments") -> str:
    return f"{TIERED}/{kind}/{quote_from_bytes(name)}"


async def test_figures_agree_with_status(world: World) -> None:
    async with staged(world) as stage:
        for index, path in enumerate((b"hot", b"warm", b"cold", b"cold2")):
            await stage.machine.write(path, b"x" * (index + 1))
        await stage.machine.archive(b"warm", b"cold", b"cold2")
        await stage.machine.release(b"cold", b"cold2")
        stats = await stage.get(f"{TIERED}/stats")
        assert {name: value for name, value in stats.items() if name != "status"} == {
            "total_segments": 4,
            "hot_segments": 1,
            "warm_segments": 1,
            "cold_segments": 2,
            "archived_segments": 3,
            "lost_segments": 0,
            "total_size_bytes": 10,
            "hot_bytes": 1,
            "warm_bytes": 2,
            "cold_bytes": 7,
        }
        assert stats["status"]["cold"] == {"files": 2, "bytes": 7}


async def test_files_of_any_name_are_reached_by_their_href(world: World) -> None:
    """What is not UTF-8 is percent-encoded in URLs, and a lone surrogate in JSON; line breaks are characters too."""
    async with staged(world) as stage:
        stage.machine.mkdir(b"d\xff")
        for name in ODD_NAMES:
            await stage.machine.write(b"d\xff/" + name, name)
        page = await stage.get(f"{TIERED}/segments")
        assert page["next"] is None
        assert [os.fsencode(one["segment_path"]) for one in page["segments"]] == sorted(
            b"d\xff/" + n for n in ODD_NAMES
        )
        for one in page["segments"]:
            path = os.fsencode(one["segment_path"])
            assert one["href"] == at(path)
            assert await stage.get(one["href"]) == one
            moved = await stage.post("archive", segment_path=one["segment_path"])
            assert moved["segments"] == [
                {"segment_path": one["segment_path"], "result": "done", "reason": "", "bytes": len(path) - 3}
            ]
            percent = quote_from_bytes(path)
            assert (await stage.post("release", segment_path=percent, encoding="percent"))["done"] == 1
            cold = await stage.get(one["href"])
            assert (cold["residency"], cold["is_archived"], bool(cold["etag"])) == ("cold", True, True)
            assert (await stage.post("restore", segment_paths=[one["segment_path"]]))["done"] == 1
            answer = await stage.http.put(at(path, "pins"))
            assert answer.json() == {"segment_path": one["segment_path"], "pinned": True, "changed": True}
        pins = (await stage.get(f"{TIERED}/pins"))["pins"]
        assert [os.fsencode(one["segment_path"]) for one in pins] == sorted(b"d\xff/" + name for name in ODD_NAMES)


async def test_a_file_is_described(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"12345")
        await stage.machine.archive(b"f")
        found = await stage.get(at(b"f"))
        assert found.pop("mtime") > 0
        assert found.pop("etag")
        assert found.pop("reason")
        assert found == {
            "segment_path": "f",
            "href": at(b"f"),
            "policy": "default",
            "is_archived": True,
            "residency": "mirrored",
            "tier": "warm",
            "kind": "file",
            "size_bytes": 5,
            "object_key": "p/f",
            "cached_bytes": 0,
            "pinned": False,
        }


@pytest.mark.parametrize(("profile", "policy"), [("kafka", "kafka"), ("generic", "default")])
async def test_the_policy_of_a_file_is_the_profile_of_its_mount(world: World, profile: str, policy: str) -> None:
    """And the metrics call it the same."""
    world.settings = world.settings.model_copy(update={"profile": profile})
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"1")
        assert (await stage.get(at(b"f")))["policy"] == policy
        assert (await stage.get(f"{TIERED}/stats"))["total_segments"] == 1
        [segments] = [
            line
            for line in (await stage.http.get("/metrics")).text.splitlines()
            if line.startswith("tiered_storage_segments_total{")
        ]
        assert segments.endswith(f'policy="{policy}"}} 1.0')


async def test_pages_lead_to_each_other(world: World) -> None:
    names = [b"a/%d" % index for index in range(5)] + [b"a/\xff&?", b"a/z"]
    async with staged(world) as stage:
        stage.machine.mkdir(b"a")
        await stage.machine.write(b"b", b"x")
        for name in names:
            await stage.machine.write(name, b"x")
        seen, following, pages = [], f"{TIERED}/segments?prefix=a/&limit=2", 0
        while following:
            page = await stage.get(following)
            seen += [os.fsencode(one["segment_path"]) for one in page["segments"]]
            following, pages = page["next"], pages + 1
        assert seen == sorted(names)
        assert pages == 4


OUTSIDE = [
    *("../../etc/passwd", "%2e%2e/x", "..%2F..%2Fetc%2Fpasswd", "/etc/passwd", "a//b", "./f", "f/", "f%00", "f/below"),
    *("none", "x" * 300, "x/" * 2000 + "x"),
]


async def test_a_path_outside_the_tree_is_not_there(world: World) -> None:
    """Also written in ways that a server, a proxy or a framework might take for another path."""
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x")
        for path in OUTSIDE:
            for kind, method in (("segments", "GET"), ("pins", "PUT")):
                target = {"target": f"{TIERED}/{kind}/{path}".encode()}  # as it is: httpx would tidy it
                stage.checked(await stage.http.request(method, "/", extensions=target), 404)
            for verb in ("archive", "release", "restore"):
                await stage.post(verb, 404, segment_path=path, encoding="percent")
        assert (await stage.get(f"{TIERED}/pins"))["pins"] == []
        assert stage.machine.residency(b"f").value == "hot"


async def test_what_is_not_there_is_said_to_be_so(world: World) -> None:
    """The control API of the commands is not served over TCP."""
    async with staged(world) as stage:
        for path in ("/none", "/api", "/api/v1", f"{TIERED}/segment", "/api/v1/status", "/x/api/v1/tiered/stats"):
            await stage.get(path, 404)
        stage.checked(await stage.http.delete(f"{TIERED}/stats"), 405)
        answer = await stage.http.options(at(b"f", "pins"))
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, PUT")


SENSELESS: list[object] = [
    {},
    {"segment_path": None},
    {"segment_path": 1},
    {"segment_path": ["a"]},
    {"segment_path": "a", "segment_paths": ["b"]},
    {"segment_paths": []},
    {"segment_paths": "a"},
    {"segment_paths": [1]},
    {"globs": []},
    {"segment_path": "\ud800"},
    {"globs": ["\ud800*"]},
    {"globs": ["*"] * 101},
    {"globs": ["x" * 20_000]},
    {"segment_path": "a", "recursive": "yes"},
    {"segment_path": "a", "recursive": 1},
    {"segment_path": "a", "asynchronous": None},
    {"segment_path": "a", "encoding": "base64"},
    {"segment_path": "a", "segment": "a"},
    [],
    "a",
]
#: The last two are what a page of another site can send without being asked.
NO_JSON = [
    (b"no json", "application/json"),
    (b"\xff", "application/json"),
    (b"", "application/json"),
    (b"[" * 100_000, "application/json"),
    (b'{"segment_path": "f"}', "text/plain"),
    (b'{"segment_path": "f"}', ""),
]


async def test_a_body_that_makes_no_sense_is_refused_in_words(world: World) -> None:
    async with staged(world) as stage:
        for body in SENSELESS:
            headers = {"content-type": "application/json"}
            answer = await stage.http.post(f"{TIERED}/archive", content=json.dumps(body), headers=headers)
            assert stage.checked(answer, 422)["error"]["message"].startswith("body")


async def test_what_is_no_json_is_refused_in_words(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x")
        for content, kind in NO_JSON:
            headers = {"content-type": kind} if kind else {}
            answer = await stage.http.post(f"{TIERED}/archive", content=content, headers=headers)
            assert stage.checked(answer, answer.status_code)["error"]["message"]
            assert answer.status_code in (400, 422)
        assert stage.machine.residency(b"f").value == "hot"


async def test_a_query_that_makes_no_sense_is_refused_in_words(world: World) -> None:
    async with staged(world) as stage:
        for query in ("limit=0", "limit=1001", "limit=x", "limit="):
            assert "limit" in (await stage.get(f"{TIERED}/segments?{query}", 422))["error"]["message"]


async def test_one_file_that_does_not_move_fails_its_request(world: World) -> None:
    async with staged(world) as stage:
        stage.machine.mkdir(b"d")
        await stage.machine.write(b"d/f", b"x")
        await stage.machine.write(b"empty", b"")
        assert "recursive" in (await stage.post("archive", 409, segment_path="d"))["error"]["message"]
        assert "it is empty" in (await stage.post("archive", 409, segment_path="empty"))["error"]["message"]
        await stage.post("release", 404, segment_path="none")
        moved = await stage.post("archive", segment_paths=["d", "empty", "none"])
        assert [one["result"] for one in moved["segments"]] == ["failed"] * 3
        assert moved["failed"] == 3
        moved = await stage.post("archive", segment_path="d", recursive=True)
        assert (moved["files"], moved["done"], moved["failed"]) == (1, 1, 0)


FAULTS: list[tuple[TierfsError, int]] = [
    (StoreUnavailable("the bucket is away"), 503),
    (AccessDenied("no permission"), 502),
    (DeadlineExceeded("no answer in time"), 504),
]


async def test_what_is_the_store_s_fault_is_said_to_be_so(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x")
        for error, status in FAULTS:
            world.store.fail("put", error, times=None)
            refused = await stage.post("archive", status, segment_path="f")
            assert refused["error"]["kind"] == type(error).__name__
            assert str(error) in refused["error"]["message"]
            assert (await stage.post("archive", segment_paths=["f"]))["failed"] == 1
            world.store.heal()


async def test_of_many_files_the_first_are_listed_and_all_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_work, "_MOST_LISTED", 2)
    async with staged(world) as stage:
        for name in (b"1", b"2", b"3", b"empty"):
            await stage.machine.write(name, b"" if name == b"empty" else b"x")
        moved = await stage.post("archive", globs=["*"])
        assert [moved[name] for name in ("files", "done", "unchanged", "failed")] == [4, 3, 0, 1]
        assert (len(moved["segments"]), moved["omitted"]) == (2, 2)


async def test_globs_stand_for_files(world: World) -> None:
    async with staged(world) as stage:
        stage.machine.mkdir(b"d")
        for name in (b"d/1.log", b"d/2.log", b"d/1.index", b"3.log"):
            await stage.machine.write(name, b"x")
        moved = await stage.post("release", globs=["d/*.log"])
        assert sorted(one["segment_path"] for one in moved["segments"]) == ["d/1.log", "d/2.log"]
        moved = await stage.post("restore", globs=["*.log"])
        assert (moved["done"], moved["unchanged"]) == (2, 1)
        assert (await stage.post("archive", globs=["none*"]))["files"] == 0


async def test_a_job_goes_on_by_itself(world: World) -> None:
    async with staged(world) as stage:
        stage.machine.mkdir(b"d")
        for name in (b"d/1", b"d/2", b"d/empty"):
            await stage.machine.write(name, b"" if name == b"d/empty" else b"x")
        answer = await stage.http.post(
            f"{TIERED}/archive", json={"segment_path": "d", "recursive": True, "asynchronous": True}
        )
        job = stage.checked(answer, 202)
        assert answer.headers["location"] == job["href"] == f"{TIERED}/jobs/{job['id']}"
        while job["state"] == "running":
            job = await stage.get(job["href"])
        assert (job["state"], job["verb"], job["files"], job["failures"]) == ("done", "archive", 3, [])
        assert [one["id"] for one in (await stage.get(f"{TIERED}/jobs"))["jobs"]] == [job["id"]]
        stage.checked(await stage.http.post(job["href"] + "/cancel"), 200)  # it has ended: that is no error
        await stage.get(f"{TIERED}/jobs/none", 404)


async def test_pins_are_set_and_taken_away(world: World) -> None:
    async with staged(world) as stage:
        stage.machine.mkdir(b"d")
        await stage.machine.write(b"d/f", b"x")
        assert (await stage.http.put(at(b"d", "pins"))).json()["changed"] is True
        assert (await stage.http.put(at(b"d", "pins"))).json()["changed"] is False
        assert (await stage.get(at(b"d/f")))["pinned"] is True
        assert "pinned" in (await stage.post("release", 409, segment_path="d/f"))["error"]["message"]
        stage.checked(await stage.http.delete(at(b"d/f", "pins")), 409)
        assert stage.checked(await stage.http.delete(at(b"d", "pins")), 200)["pinned"] is False
        stage.checked(await stage.http.delete(at(b"d", "pins")), 404)
        assert (await stage.get(f"{TIERED}/pins"))["pins"] == []


async def test_the_plan_is_shown_and_changes_nothing(world: World) -> None:
    async with staged(world) as stage:
        for index in range(3):
            await stage.machine.write(b"%d" % index, b"12")
        assert await stage.get(f"{TIERED}/plan") == {"files": 0, "bytes": 0, "actions": [], "omitted": 0}
        world.offset_ns = 90 * 60 * 10**9  # older than warm_after
        plan = await stage.get(f"{TIERED}/plan?limit=2")
        assert (plan["files"], plan["bytes"], plan["omitted"]) == (3, 6, 1)
        assert {(one["verb"], one["size_bytes"]) for one in plan["actions"]} == {("archive", 2)}
        assert stage.machine.residency(b"0").value == "hot"


async def test_events_are_lines_or_server_sent(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"\xff", b"x")
        await stage.post("archive", globs=["*"])
        answer = await stage.http.get(f"{TIERED}/events")
        assert answer.headers["content-type"] == wire.LINES
        events = [json.loads(line) for line in answer.text.splitlines()]
        turned = [one for one in events if one["kind"] == "residency"]
        assert [os.fsencode(one["path"]) for one in turned] == [b"\xff"] * 2
        assert [one["after"] for one in turned] == ["archiving", "mirrored"]
        last = events[-1]["number"]
        assert (await stage.http.get(f"{TIERED}/events?after={last}")).text == ""
        headers = {"accept": "text/event-stream", "last-event-id": str(events[-2]["number"])}
        sent = await stage.http.get(f"{TIERED}/events", headers=headers)
        assert sent.headers["content-type"].startswith("text/event-stream")
        number, kind, data, *rest = sent.text.split("\n")
        assert (number, kind, rest) == (f"id: {last}", f"event: {events[-1]['kind']}", ["", ""])
        assert json.loads(data.removeprefix("data: ")) == events[-1]


async def test_what_a_browser_saw_last_is_a_number(world: World) -> None:
    async with staged(world) as stage:
        for seen in ("9" * 5000, "9" * 19, "-1", "x", "1.0"):
            answer = await stage.http.get(f"{TIERED}/events", headers={"last-event-id": seen})
            assert "is not a number" in stage.checked(answer, 400)["error"]["message"]
        assert (await stage.http.get(f"{TIERED}/events", headers={"last-event-id": ""})).status_code == 200


async def test_who_follows_hears_what_happens(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x")
        heard: list[str] = []

        def listen() -> None:
            url, headers = stage.http.base_url.join(f"{TIERED}/events?follow=true"), stage.http.headers
            with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
                for line in answer.iter_lines():
                    heard.append(json.loads(line)["after"])
                    if heard[-1] == "mirrored":
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, listen)
            await stage.post("archive", segment_path="f")
        assert heard[-2:] == ["archiving", "mirrored"]
        assert (await stage.get("/healthz"))["status"] == "ok"


async def test_health_and_configuration(world: World) -> None:
    async with staged(world) as stage:
        assert await stage.get("/healthz") == {"status": "ok", "version": "1", "worker_pid": 1}
        ready = await stage.get("/readyz")
        assert (ready["status"], ready["mountpoint"]) == ("ready", "/mnt")
        configuration = await stage.get("/api/v1/config")
        assert configuration["store"] == "s3://bucket/p"
        assert configuration["settings"]["endpoint_url"] == "https://***@localhost:1"
        assert configuration["settings"]["warm_after"] == "1h"
        assert set(configuration["settings"]) == set(Settings.model_fields)
        answer = await stage.http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'tiered_storage_build_info{mountpoint="/mnt"' in answer.text


async def test_no_endpoint_answers_without_the_token(world: World) -> None:
    """Whatever is described, the pages, and what is not there."""
    async with staged(world) as stage:
        described = await stage.get("/api/v1/openapi.json")
        paths = [path.replace("{path}", "f").replace("{job_id}", "1") for path in described["paths"]]
        assert len(paths) > 10
        async with httpx.AsyncClient(base_url=stage.http.base_url, trust_env=False) as stranger:
            for path in [*paths, "/api/v1/openapi.json", "/api/v1/docs/", "/", "/status/", "/status/page.js", "/none"]:
                for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                    assert (await stranger.request(method, path)).status_code == 401
            key = {"sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}
            headers = {"connection": "upgrade", "upgrade": "websocket"} | key
            for path in ("/", paths[0]):
                assert (await stranger.get(path, headers=headers)).status_code == 403


async def test_who_names_the_mount_alone_gets_the_status_page(world: World) -> None:
    """All that it is made of is there, asks nobody else, and holds nothing of the mount."""
    async with staged(world) as stage:
        page = await stage.http.get("/", follow_redirects=True)
        assert (page.url.path, page.headers["content-type"]) == ("/status/", "text/html; charset=utf-8")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src")
        assert "require-trusted-types-for 'script'" in policy
        assert not {"unsafe", "data:", "*", "//"} & set(policy.split())
        assert "<script>" not in page.text
        assert " style=" not in page.text
        files = ["page.html", "page.css", "page.js", "icon.svg"]
        for name in files:
            answer = await stage.http.get(f"/status/{name}")
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
            assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            files += [found for found in re.findall(r'from "\./([a-z]+\.js)"', answer.text) if found not in files]
        assert len(files) > 6
        for name in ("none.js", "..%2fpage.py", "page.py"):
            assert (await stage.http.get(f"/status/{name}")).status_code == 404


async def test_a_browser_shows_figures_by_the_password_of_its_user(world: World) -> None:
    """What the status page asks for; nothing else, and not for a page of another site, which cannot send the header."""
    async with staged(world) as stage:
        auth, of_the_page = ("anybody", TOKEN), {"x-tierfs-page": "1"}
        async with httpx.AsyncClient(base_url=stage.http.base_url, trust_env=False, auth=auth) as browser:
            for name in ("stats?quick=true", "jobs", "events", "plan"):
                assert (await browser.get(f"{TIERED}/{name}", headers=of_the_page)).status_code == 200
                assert (await browser.get(f"{TIERED}/{name}")).status_code == 401
            for path in (f"{TIERED}/segments", "/api/v1/config", "/metrics", "/healthz"):
                assert (await browser.get(path, headers=of_the_page)).status_code == 401
            answer = await browser.post(f"{TIERED}/jobs/1/cancel", headers=of_the_page)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_figures_are_there_quickly_before_anybody_has_looked(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x")
        quick, thorough = await stage.get(f"{TIERED}/stats?quick=true"), await stage.get(f"{TIERED}/stats")
        assert quick["hot_segments"] == thorough["hot_segments"] == 1


async def test_what_a_tree_costs(world: World) -> None:
    async with staged(world) as stage:
        await stage.machine.write(b"f", b"x" * 1024)
        await stage.machine.archive(b"f")
        cost = await stage.get(f"{TIERED}/cost")
        assert TypeAdapter(Cost).validate_python(cost) == cost
        assert (cost["month"]["now"]["objects"], cost["month"]["now"]["object_bytes"]) == (1, 1024)
        table = {"prices": str(world.hot.parent / "none.toml")}
        stage.machine.tier.settings = Settings.of(**world.settings.model_dump(mode="json") | table)
        assert "none.toml" in (await stage.get(f"{TIERED}/cost", 400))["error"]["message"]


async def test_the_page_to_try_it_has_everything_and_asks_nobody_else(world: World) -> None:
    async with staged(world) as stage:
        page = await stage.http.get("/api/v1/docs", follow_redirects=True)
        assert page.url.path == "/api/v1/docs/"
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "//" not in page.text
        for name in ("start.js", "swagger-ui.css", "swagger-ui-bundle.js"):
            assert name in page.text
            assert (await stage.http.get(f"/api/v1/docs/{name}")).status_code == 200
        for name in ("index.html", "..%2f__init__.py", "none"):
            assert (await stage.http.get(f"/api/v1/docs/{name}")).status_code == 404
        answer = await stage.http.get("/healthz")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_it_is_served_on_the_control_socket_too(world: World, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Beside the control API, without a token: the kernel says who is there."""
    async with world.running() as machine:
        operator = operator_of(machine)
        api = api_of(machine.tree, operator, world.settings)
        await nursery.start(serve, operator, tmp_path / "s", api)
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
        async with httpx.AsyncClient(transport=transport, base_url="http://tierfs", timeout=60) as http:
            status = (await http.get("/api/v1/status")).json()
            assert (await http.get(f"{TIERED}/stats")).json()["status"]["mountpoint"] == status["mountpoint"]
            foreign = await http.post(
                f"{TIERED}/archive", json={"globs": ["*"]}, headers={"origin": "http://evil.example"}
            )
            assert foreign.status_code == 403
            foreign = await http.get("/api/v1/status", headers={"host": "evil.example"})
            assert foreign.status_code == 403
        nursery.cancel_scope.cancel()
