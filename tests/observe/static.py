"""What can be told of rules, runbooks and dashboards without running anything of ours."""

import re
import subprocess
import sys

import dashboards
from programs import DEPLOY, ROOT, tool

RUNBOOKS = ROOT / "docs" / "runbooks"
RULES_TEST = ROOT / "tests" / "observe" / "rules_test.yml"
# Each runbook answers these.
SECTIONS = ("## What it means", "## What people notice", "## What to look at", "## What to do", "## When it is over",
            "## Why this threshold")
# Labels that Prometheus gives to all that a target tells.
TARGETS = ("namespace", "pod", "job", "service", "instance")
# What pages name so that is of Prometheus and of kubectl.
ELSEWHERE = ("Status > Service Discovery", "Status > Targets", "Last State", "Reason", "Exit Code")
# Programs that pages tell to call.
COMMANDS = ("cargo", "kubectl", "nats", "sudo")


def faults():
    yield from commands()
    yield from dashboards.faults(dashboards.load())
    yield from names()
    yield from values()
    yield from rule_cases()
    yield from caused()
    yield from runbooks()
    yield from quotes()
    yield from panels()


def commands():
    """The real tools' own checks."""
    promtool = tool("promtool")
    rules = sorted(map(str, (DEPLOY / "rules").glob("*.yml")))
    for command in (
        [promtool, "check", "config", str(DEPLOY / "prometheus.yml")],
        [promtool, "check", "rules", *rules],
        [promtool, "test", "rules", str(RULES_TEST)],
        [sys.executable, str(ROOT / "deploy" / "grafana" / "generate.py"), "--check"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{' '.join(command)}:\n{done.stdout.strip()}\n{done.stderr.strip()}"


def names():
    """Rules and dashboards ask for metrics that there are: that the server's code names, or the page of metrics, which has those of every process."""
    sources = [ROOT / "docs" / "metrics.md", *(ROOT / "services" / "server" / "src").rglob("*.rs")]
    known = set(re.findall(r"[`\"]((?:tertulia|process)_\w+)[`\"]", "".join(path.read_text() for path in sources)))
    # Recorded series are named after what they are made of.
    rules = re.sub(r"\w+:\w+:\w+", "", "".join(path.read_text() for path in sorted((DEPLOY / "rules").glob("*.yml"))))
    asked = {"the rules": rules, **{str(query): query.expr for query in dashboards.queries(dashboards.load())}}
    for where, text in asked.items():
        for name in sorted(dashboards.metrics_of(text)):
            if name not in known:
                yield f"{where}: there is no metric {name}"


def values():
    """What rules and dashboards choose a metric by is a label that it has, and a value that the page of metrics names. Codes are those of the protocol, or of gRPC."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    codes = (ROOT / "docs" / "protocol.md").read_text() + (ROOT / "proto" / "tertulia" / "admin" / "v1" / "admin.proto").read_text()
    rows = {name: (labels, meaning) for name, labels, meaning in re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) ?\| (.*) \|$", page, re.MULTILINE)}
    asked = {path.name: path.read_text() for path in (DEPLOY / "rules").glob("*.yml")}
    asked.update((str(query), query.expr) for query in dashboards.queries(dashboards.load()))
    for where, text in asked.items():
        for name, selector in re.findall(r"\b(tertulia_\w+){([^}]*)}", text):
            labels, meaning = rows.get(re.sub(r"_(bucket|sum|count)$", "", name), ("", ""))
            for label, chosen in re.findall(r"(\w+)[!=]=?~?\"([^\"]*)\"", selector):
                if label in TARGETS:
                    continue
                told = codes if label == "code" else meaning
                if f"`{label}`" not in labels:
                    yield f"{where}: {name} has no label {label}"
                elif unknown := [value for value in chosen.split("|") if not re.search(rf"\b{value}\b", told)]:
                    yield f"{where}: the {label} of {name} is never {', '.join(unknown)}"


def alerts():
    text = "".join(path.read_text() for path in sorted((DEPLOY / "rules").glob("*.yml")))
    return re.findall(r"- alert: (\w+)", text)


def rule_cases():
    """Each alert has a case in which it fires and one in which it does not."""
    text = RULES_TEST.read_text()
    quiet = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts: \[\]", text))
    firing = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", text))
    for alert in alerts():
        if alert not in quiet or alert not in firing:
            yield f"rules_test.yml needs a case in which {alert} {'fires' if alert in quiet else 'does not fire'}"


def caused():
    """Each alert is one that the evening waits for, or one that it does not cause: who adds one learns of it before two minutes have gone."""
    evening = (ROOT / "tests" / "observe" / "run").read_text()
    for alert in alerts():
        if f'"{alert}"' not in evening:
            yield f"tests/observe/run neither waits for {alert} nor names it in NOT_CAUSED"


def runbooks():
    """Each alert has its page and links to it, and each page has an alert."""
    text = "".join(path.read_text() for path in sorted((DEPLOY / "rules").glob("*.yml")))
    known = alerts()
    for alert in known:
        rule = text.split(f"- alert: {alert}\n")[1].split("- alert:")[0]
        for part in ("for: ", "severity: ", "summary: ", "description: ", f"runbook_url: docs/runbooks/{alert}.md\n"):
            if part not in rule:
                yield f"the alert {alert} has no {part.strip()}"
        page = RUNBOOKS / f"{alert}.md"
        if not page.exists():
            yield f"there is no docs/runbooks/{alert}.md"
            continue
        body = page.read_text()
        places = [body.find(f"\n{section}\n") for section in SECTIONS]
        if not body.startswith(f"# {alert}\n") or -1 in places or places != sorted(places):
            yield f"docs/runbooks/{alert}.md must begin with its name and answer, in this order: {', '.join(SECTIONS)}"
    for page in RUNBOOKS.glob("Tertulia*.md"):
        if page.stem not in known:
            yield f"docs/runbooks/{page.name} is of no alert"
    index = (RUNBOOKS / "README.md").read_text()
    for alert in known:
        if f"({alert}.md)" not in index:
            yield f"docs/runbooks/README.md does not list {alert}"


def quotes():
    """What a page quotes of the server's log is what the code says: who greps for it in an outage must find it."""
    sources = sorted((ROOT / "services" / "server" / "src").rglob("*.rs"))
    code = re.sub(r"^\s*//.*$", "", "".join(path.read_text() for path in sources), flags=re.MULTILINE)
    # A text that is continued on the next line.
    code = re.sub(r"\\\n\s*", "", code)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for quote in log_lines(page.read_text()):
            if quote not in code:
                yield f"{page.relative_to(ROOT)} quotes `{quote}`, which the server's code says nowhere"


def log_lines(text):
    """What looks like words of a log: four or more, without capitals, numbers or signs, and no command."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for quote in re.findall(r"`([a-z][a-z',:; -]*)`", text):
        words = quote.split()
        if len(words) >= 4 and words[0] not in COMMANDS:
            yield quote


def panels():
    """The panels that runbooks send people to are there. They are in italics, the first of a dashboard behind its name; words that begin with a small letter are only stressed."""
    known = dashboards.panels(dashboards.load())
    for page in sorted(RUNBOOKS.glob("Tertulia*.md")):
        text = re.sub(r"`[^`\n]*`", "", page.read_text())
        for words in re.findall(r"(?<![*\w])\*(?! )([^*\n]+)(?<! )\*(?!\*)", text):
            dashboard, _, panel = words.rpartition(" > ")
            is_there = any(panel == title and dashboard in ("", name) for name, title in known)
            if not is_there and words not in ELSEWHERE and (dashboard or panel[0].isupper()):
                yield f"docs/runbooks/{page.name} names *{words}*, and there is no such panel"
