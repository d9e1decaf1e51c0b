"""Medians, costs, and what is measured at all."""

import os
import sys

import pytest

from benchmarks.peers.dynamo import NvidiaDynamo, write_tiny_model
from benchmarks.procstat import Usage
from benchmarks.report import Run, costs, host_facts, markdown
from benchmarks.run import Case, cases, main
from benchmarks.target import Target, TargetError


def make_run(**changes):
    load = {
        "requests": 2000,
        "errors": 0,
        "short": 0,
        "tokens": 100_000,
        "req_per_s": 500.0,
        "tok_per_s": 25_000.0,
        **dict.fromkeys(("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms"), 1.234),
    }
    load |= {name: changes.pop(name) for name in list(changes) if name in load}
    usage = {"frontend": Usage(4.0, 150_000_000), "worker": Usage(2.0, 90_000_000)}
    fields = {"target": "A", "delay_ms": 0.0, "concurrency": 16, "usage": usage, "start_s": 1.0}
    return Run(load=load, **{**fields, **changes})


def test_costs_per_request_and_token():
    assert costs(make_run())["frontend"] == {
        "cpu_s": 4.0,
        "cpu_s_per_1k_requests": 2.0,
        "cpu_s_per_1m_tokens": 40.0,
        "rss_mb": 150.0,
    }


def test_costs_of_a_run_without_answers_do_not_divide_by_zero():
    assert costs(make_run(requests=0, tokens=0))["worker"]["cpu_s"] == 2.0


def test_table_has_a_row_per_case_with_median_and_range():
    runs = [make_run(req_per_s=value) for value in (400.0, 700.0, 500.0)]
    runs += [make_run(target="B", concurrency=1, errors=2, short=1)]
    table = markdown(runs)
    rows = [line for line in table.splitlines() if line.startswith(("| A", "| B"))]
    assert [row[:12].rstrip(" |") for row in rows] == ["| B | 0 | 1", "| A | 0 | 16"]
    assert "| 500 (400–700) | 25.0k (25.0k–25.0k) | 1.23 / 1.23 |" in rows[1]
    assert "| 2 + 1 | 40 + 20 | 150 + 90 | 0 |" in rows[1]
    assert rows[0].endswith("| 3 |")
    assert "frontend + worker" in table.splitlines()[-1]


def test_record_is_json_able():
    import json

    record = json.loads(json.dumps(make_run().record()))
    assert (record["target"], record["costs"]["worker"]["rss_mb"]) == ("A", 90.0)


def test_host_facts(tmp_path):
    facts = host_facts(tmp_path)
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["commit"] == "unknown"


def test_matrix_leaves_out_paced_cases_with_few_streams():
    matrix = cases([0.0, 25.0], [1, 16, 64, 256], tokens=64, scale=1.0)
    assert [(case.delay_ms, case.concurrency) for case in matrix] == [
        (0, 1), (0, 16), (0, 64), (0, 256), (25, 64), (25, 256),
    ]  # fmt: skip
    assert matrix[0] == Case(0.0, 1, 200, 64)
    assert matrix[-1] == Case(25.0, 256, 1024, 64)
    assert cases([25.0], [4], tokens=64, scale=0.01) == [Case(25.0, 4, 4, 64)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "nvidia-dynamo"], "needs --dynamo-venv"),
        (["--streams", "1,x"], "invalid comma list of int value: '1,x'"),
        (["--delays", "-1"], "invalid comma list of float value: '-1'"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_missing_peer_names_what_is_missing(tmp_path):
    with pytest.raises(TargetError, match=r"bin/python; benchmarks/README\.md says how"):
        NvidiaDynamo(delay_ms=0, venv=tmp_path)


def test_tiny_model_gives_text_for_every_token(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folder = write_tiny_model(tmp_path / "model")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("héllo wörld").ids) == "héllo wörld"
    assert all(tokenizer.decode([number]) for number in range(4096))


SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def do_GET(self): self.answer({"data": [{"id": "served"}]})
    def do_POST(self): self.answer({"choices": [{}]})
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class OneProcess(Target):
    name = "one process"
    source = SERVER

    def start(self, home):
        self.spawn("frontend", [sys.executable, "-c", self.source, str(self.port)], {"MARK": "1"})

    def groups(self):
        return {"frontend": {self.pid("frontend")}}


def test_target_is_up_inside_of_with_and_gone_after():
    with OneProcess(delay_ms=0) as target:
        assert target.model == "served"
        assert 0 < target.start_s < OneProcess.start_timeout_s
        pid = target.pid("frontend")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not target.home.exists()


def test_target_that_dies_says_why():
    class Broken(OneProcess):
        source = "raise SystemExit('no such graph')"

    with pytest.raises(TargetError, match="frontend ended \\(1\\): no such graph"), Broken(delay_ms=0):
        pass


def test_target_that_never_serves_is_given_up():
    class Silent(OneProcess):
        source = "import signal; signal.pause()"
        start_timeout_s = 0.3

    with pytest.raises(TargetError, match=r"serves nothing after 0\.3 s"), Silent(delay_ms=0):
        pass
