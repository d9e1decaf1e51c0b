"""What a release consists of: one version, a log of changes in a known form, files for those who report something."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import yaml

import dynamo_tasks
from tests.support.processes import ROOT

KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert metadata.version("dynamo-tasks") == dynamo_tasks.__version__


def test_changes_are_kept_as_keepachangelog_has_it() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    for line in releases[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line), line
    assert {line[4:] for line in lines if line.startswith("### ")} <= KINDS


def test_the_workflow_runs_what_everybody_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert workflow["permissions"] == {"contents": "read"}


def test_forms_for_reports_are_complete() -> None:
    for name in ("bug", "wish"):
        form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [item["id"] for item in form["body"]]
        assert len(ids) == len(set(ids))


def test_the_policy_names_how_to_report() -> None:
    assert "Report a vulnerability" in (ROOT / "SECURITY.md").read_text()
