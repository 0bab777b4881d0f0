"""The report: whole, honest about what it leaves out, and safe with hostile text."""

import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from demo_runs import demo_evaluation, demo_group, demo_training, demo_trajectory

from palestra.agents.evaluation.report import format_p
from palestra.agents.report import write_report
from palestra.agents.report.charts import draw_charts
from palestra.agents.report.text import visible
from palestra.agents.report.transcripts import MAX_MESSAGE, gather_transcripts
from palestra.agents.runlog import RunLog, plain, write_json
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    ToolStatus,
    Turn,
)

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\x00\x1b[31m\u202eevil\u2028 {{ 7*7 }} é 🙂"
)


def hostile_group(rng, number, size=2):
    group = demo_group(rng, number, size=size)
    task = replace(group.task, id=HOSTILE, reference=HOSTILE, prompt=(Message("user", HOSTILE),))
    turns = (Turn(task.prompt, Message("assistant", HOSTILE, (ToolCall(HOSTILE, HOSTILE),))),)
    members = tuple(
        replace(
            t,
            task_id=HOSTILE,
            turns=turns,
            stop_reason=StopReason.ENV_ERROR,
            reward=None,
            correct=None,
            failure=Invalid(HOSTILE, HOSTILE),
        )
        for t in group.trajectories
    )
    return Group(task, members)


class Page(HTMLParser):
    """Elements, attributes and the content of scripts, as a browser's parser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text = [], [], [], ""
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def groups(self):
        return json.loads(self.scripts[0])["groups"]


def page_of(folder, **options):
    return Page(write_report(folder, **options).read_text(encoding="utf-8"))


def test_training_report_has_facts_curves_and_transcripts(tmp_path):
    demo_training(tmp_path / "run", steps=12, prompts=1, every=6)
    page = page_of(tmp_path / "run")
    for text in (
        "Training run",
        "palestra/Products-v0",
        "learner.clip",
        "Before and after",
        "Differences are paired by task",
        "Held-out accuracy",
        "Sampler and learner mismatch",
        "Tokens per second",
        "learner/loss",
    ):
        assert text in page.text
    assert len(page.groups) == 13
    assert [g["step"] for g in page.groups] == list(range(13))
    assert "Only" not in page.text
    label = next(v for tag, n, v in page.attributes if n == "aria-label" and "accuracy" in v)
    assert re.search(r"Held-out accuracy: 0\.\d+ at first", label)


def test_evaluation_report_has_results_and_tasks(tmp_path):
    groups = demo_evaluation(tmp_path / "eval", tasks=6)
    page = page_of(tmp_path / "eval")
    assert "Evaluation" in page.text and "pass@4" in page.text and "clustered by task" in page.text
    assert all(g.task.id in page.text for g in groups)
    assert "Curves" not in page.text
    sent = {g["task"]: g for g in page.groups}
    group = groups[0]
    view = sent[group.task.id]
    assert [m["text"] for m in view["prompt"]] == [m.content for m in group.task.prompt]
    for trajectory, member in zip(group.trajectories, view["members"], strict=True):
        said = [m["text"] for m in member["messages"] if m["role"] == "assistant"]
        assert said == [t.action.content for t in trajectory.turns]
        assert member["reward"] == trajectory.reward
        assert member["seed"] == str(trajectory.seed)


def test_a_run_without_anything_yet_still_gives_a_report(tmp_path):
    RunLog.create(tmp_path / "new", {}).close()
    page = page_of(tmp_path / "new")
    assert "kept no transcripts" in page.text
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_report(tmp_path)


def test_nothing_is_fetched_and_only_our_script_may_run(tmp_path):
    demo_evaluation(tmp_path / "eval", tasks=2)
    page = page_of(tmp_path / "eval")
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "action", "style")]
    policy = next(v for _, name, v in page.attributes if name == "content" and "default-src" in v)
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert "innerHTML" not in page.scripts[1] and "fetch(" not in page.scripts[1]


def test_hostile_text_stays_text(tmp_path):
    folder = tmp_path / "eval"
    demo_evaluation(folder, tasks=1, group=hostile_group)
    RunLog.resume(folder).log(0, {HOSTILE: 1.0, f"eval/{HOSTILE}": 0.5})
    RunLog.resume(folder).log(1, {HOSTILE: 2.0, f"eval/{HOSTILE}": 0.5})
    write_json(folder / "config.json", {HOSTILE: HOSTILE, "model": HOSTILE, "env": HOSTILE})
    page = page_of(folder, decode=lambda ids: HOSTILE)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    (group,) = page.groups
    assert group["task"] == group["reference"] == HOSTILE
    assert group["prompt"][0]["text"] == HOSTILE
    member = group["members"][0]
    assert member["messages"][0]["text"] == member["failure"]["message"] == HOSTILE
    assert member["tokens"][0]["text"] == HOSTILE
    assert "alert(1)" in page.text  # shown, as text
    assert "{{ 7*7 }}" in page.text
    assert not re.search("[\x00\x1b\u202e\u2028]", page.text + page.scripts[0])


def test_text_that_is_no_valid_unicode_can_be_written(tmp_path):
    folder = tmp_path / "run"
    with RunLog.create(folder, {"model": "lone \ud800 surrogate"}) as log:
        log.log(0, {"loss": 1.0})
    assert "lone \\ud800 surrogate" in page_of(folder).text


def test_large_training_runs_are_thinned_and_say_so(tmp_path):
    demo_training(tmp_path / "run", steps=9, prompts=3)
    page = page_of(tmp_path / "run", max_responses=40)
    assert [g["step"] for g in page.groups] == list(range(10))  # one whole group of each step
    assert "Only 10 of the 30 groups at the steps shown are in this file." in page.text
    few = page_of(tmp_path / "run", max_responses=4)
    assert [g["step"] for g in few.groups] == [0, 3, 6, 9]
    assert "Only 4 of the 10 recorded steps and 4 of the 12 groups" in few.text


def test_large_evaluations_are_thinned_evenly_and_say_so(tmp_path):
    groups = demo_evaluation(tmp_path / "eval", tasks=17, size=2)
    page = page_of(tmp_path / "eval", max_responses=12)
    assert [g["task"] for g in page.groups] == [g.task.id for g in groups[::4]]
    assert all(len(g["members"]) == 2 for g in page.groups)
    assert "Only the transcripts of 5 of the 17 tasks are in this file." in page.text


def test_long_messages_keep_their_ends(tmp_path):
    def long_group(rng, number, size):
        group = demo_group(rng, number, size=1)
        (member,) = group.trajectories
        action = Message("assistant", "a" * 30_000 + "the end")
        return Group(group.task, (replace(member, turns=(Turn(group.task.prompt, action),)),))

    demo_evaluation(tmp_path / "eval", tasks=1, group=long_group)
    (group,) = page_of(tmp_path / "eval").groups
    text = group["members"][0]["messages"][0]["text"]
    assert len(text) < MAX_MESSAGE + 100
    assert text.endswith("the end") and "10007 characters left out" in text


def test_tool_results_that_the_agent_never_saw_are_shown_as_such(tmp_path):
    task = Task("t", (Message("user", "?"),))
    results = tuple(
        ToolResult(ToolCall("python", "{}"), text, status)
        for text, status in (("one", ToolStatus.OK), ("two", ToolStatus.TIMEOUT))
    )
    turns = (
        Turn(task.prompt, Message("assistant", "call"), results[:1]),
        Turn((Message("tool", "one"),), Message("assistant", "again"), results[1:]),
    )
    trajectory = demo_trajectory(
        task, turns, results, StopReason.MAX_TURNS, 0.0, False, None, random.Random(0)
    )
    with RunLog.create(tmp_path / "run", {}) as log:
        log.write_groups(1, [Group(task, (trajectory,))])
    (group,) = gather_transcripts(tmp_path / "run", 10, None).groups
    first, seen, second, unseen = group["members"][0]["messages"]
    assert (first["text"], second["text"]) == ("call", "again")
    assert seen["result"]["status"] == "ok" and "unseen" not in seen
    assert unseen["result"]["status"] == "timeout" and unseen["unseen"]


def test_tokens_are_shown_in_runs_of_sampled_and_not(tmp_path):
    group = demo_group(random.Random(0), 0, size=1)
    trajectory = group.trajectories[0]
    with RunLog.create(tmp_path / "run", {}) as log:
        log.write_groups(1, [group])
    decode = "".join
    view = gather_transcripts(tmp_path / "run", 10, lambda ids: decode(f"{i} " for i in ids))
    runs = view.groups[0]["members"][0]["tokens"]
    assert [r["sampled"] for r in runs] == [False, True, False]
    assert sum(r["count"] for r in runs) == len(trajectory.token_ids)
    assert "".join(r["text"] for r in runs).split() == [str(i) for i in trajectory.token_ids]
    sampled = [p for p, m in zip(trajectory.logprobs, trajectory.mask, strict=True) if m]
    assert runs[1]["logprob"] == pytest.approx(sum(sampled) / len(sampled))


def test_charts_show_every_number_and_skip_what_is_missing():
    records = [
        {"step": 0, "eval/accuracy": 0.2, "eval/accuracy_low": 0.1, "eval/accuracy_high": 0.3},
        {"step": 1, "odd/name": None, "reward/mean": 1.0, "text": "x", "flag": True},
        {"step": 2, "eval/accuracy": 0.4, "eval/accuracy_low": 0.3, "eval/accuracy_high": 0.5},
        {"step": 3, "odd/name": 1e12, "reward/mean": 1.0},
        {"step": 4, "odd/name_low": 0.0, "odd/name_high": 2e12},  # a band, no chart of its own
    ]
    charts = {c.title: c for c in draw_charts(records)}
    assert list(charts) == ["Held-out accuracy", "Training reward", "odd/name"]
    assert charts["Held-out accuracy"].latest == "40.0 %"
    assert "band" in charts["Held-out accuracy"].svg
    page = Page(str(charts["Held-out accuracy"].svg))
    (series,) = json.loads(next(v for _, n, v in page.attributes if n == "data-series"))
    assert series["x"] == [0, 2] and series["y"] == [0.2, 0.4] and series["low"] == [0.1, 0.3]
    for _, name, value in page.attributes:
        if name == "points":
            assert all(0 <= float(n) <= 360 for n in re.split("[ ,]", value))
    assert draw_charts([]) == []
    assert len(draw_charts([{"step": 5, "x": 0.0}])) == 1


DRIVER = """<script>
const said = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
addEventListener("error", (event) => said.push("ERROR " + event.message));
(async () => {
  said.push("rows " + document.querySelectorAll("#list li").length);
  document.getElementById("next").click();
  said.push(document.getElementById("page").textContent);
  const set = (id, value, kind) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event(kind));
  };
  set("outcome", "truncated", "change");
  said.push("truncated " + document.querySelectorAll("#list .badge.truncated").length
    + "/" + document.querySelectorAll("#list li").length);
  set("outcome", "", "change");
  set("search", "PRODUCT-0003", "input");
  await wait(400);
  said.push(document.getElementById("found").textContent);
  document.querySelector("#list button").click();
  said.push("members " + document.querySelectorAll("dialog[open] .member").length);
  said.push("marked " + (document.querySelectorAll("dialog mark").length > 0));
  document.getElementById("g-tokens").click();
  said.push("runs " + document.querySelector("dialog .tokens .sampled").textContent.trim());
  document.getElementById("g-next").click();
  said.push(document.getElementById("g-title").textContent + " " + location.hash);
  document.getElementById("g-close").click();
  const chart = document.querySelector("svg[data-series]");
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  said.push(document.querySelector(".tip").textContent);
  document.getElementById("theme").click();
  said.push(document.documentElement.dataset.theme);
  const output = document.createElement("output");
  output.textContent = said.join("|");
  document.body.append(output);
})();
</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the chromium browser")
def test_the_viewer_works_in_a_browser(tmp_path):
    demo_training(tmp_path / "run", steps=9, prompts=1, every=3)
    html = write_report(tmp_path / "run", decode=lambda ids: f"{len(ids)} ids").read_text()
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    (tmp_path / "page.html").write_text(page.replace("</body>", DRIVER))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    command = [
        "chromium",
        *flags.split(),
        *quiet.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=5000", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    groups = Page(html).groups
    truncated = sum(m["outcome"] == "truncated" for g in groups for m in g["members"])
    tokens = next(g for g in groups if g["task"] == "product-0003")["members"][0]["model_tokens"]
    said = re.search("<output>(.*)</output>", dom)[1].split("|")
    assert said[:3] == ["rows 50", "Page 2 of 2", f"truncated {truncated}/{truncated}"]
    assert said[3:5] == ["8 of 80 responses match.", "members 8"]
    assert said[5] == "marked false"  # the id is in the title, not in a message
    assert said[6] == f"runs {tokens} ids"
    assert said[7] == "product-0004 #response-4-0"
    assert re.fullmatch(r"step 6\d+\.\d %( \[[\d., %]+\])?", said[8])
    assert said[9] in ("dark", "light")


def test_hidden_characters_are_written_out():
    assert visible("a\x1b[0m\u202eb\n\tc\u200b") == "a\\x1b[0m\\u202eb\n\tc\\u200b"
    assert visible("é 🙂 中") == "é 🙂 中"


def test_reports_are_replaced_whole(tmp_path):
    demo_evaluation(tmp_path / "eval", tasks=1)
    first = write_report(tmp_path / "eval")
    assert write_report(tmp_path / "eval") == first == tmp_path / "eval" / "report.html"
    assert not list((tmp_path / "eval").glob(".*"))
    assert plain(json.loads((tmp_path / "eval" / "config.json").read_text()))


def test_a_reward_is_drawn_beside_its_parts_on_the_same_scale():
    records = [
        {"step": step, "eval/score": 0.5, "eval/part/words": 30 + step, "eval/part/watched": 0.4}
        for step in range(3)
    ]
    (chart,) = (c for c in draw_charts(records) if c.title == "Held-out reward and parts")
    assert chart.legend == ["reward", "watched"]
    plain = [{"step": 0, "eval/score": 0.5}, {"step": 1, "eval/score": 0.6}]
    assert [c.title for c in draw_charts(plain)] == ["Held-out accuracy"]


def test_a_tiny_p_value_is_not_written_out():
    assert [format_p(p) for p in (1.6e-140, 2e-6, 0.25)] == ["< 1e-6", "2e-06", "0.25"]


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.0, 3.0), (2.0, 2.0)])
def test_the_axis_of_what_is_never_negative_does_not_go_below_zero(values):
    records = [
        {"step": i, "m": y, "m_low": y - 1.0, "m_high": y + 1.0} for i, y in enumerate(values)
    ]
    (chart,) = draw_charts(records)
    labels = re.findall(r'class="y">([^<]*)<', str(chart.svg))
    assert min(map(float, labels)) >= 0
