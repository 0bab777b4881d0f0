"""Task files: the formats that are recognised, the errors, and the split of files."""

import gzip
import importlib.util
import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from palestra.envs.math_code import MathCode
from palestra.envs.tasks import check_disjoint, load_tasks

DATA = Path(__file__).parent / "data"
GSM8K_STYLE = DATA / "gsm8k_style.jsonl"


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def one(tmp_path, row, **options):
    source = f"train={write(tmp_path / 'rows.jsonl', [row])}"
    return load_tasks(source, **options)[0]


def test_gsm8k_rows():
    tasks = load_tasks(f"heldout={GSM8K_STYLE}", split="test")
    assert [t.reference for t in tasks] == ["36", "1200", "6", "-2", "0.75"]
    assert tasks[0].question.startswith("A bakery sells")
    assert tasks[0].metadata["answer"].startswith("In the afternoon")  # the worked solution
    assert tasks[0].split == "heldout"
    assert pickle.loads(pickle.dumps(tasks))[1] == tasks[1]


@pytest.mark.skipif("PALESTRA_GSM8K" not in os.environ, reason="PALESTRA_GSM8K is not set")
def test_real_gsm8k():
    folder = os.environ["PALESTRA_GSM8K"]
    source = f"train={folder}/train.jsonl,heldout={folder}/test.jsonl"
    train, heldout = load_tasks(source), load_tasks(source, split="heldout")
    assert (len(train), len(heldout)) == (7473, 1319)
    check_disjoint(train, heldout, None)
    for task in (*train, *heldout):
        float(task.reference)


ROWS = [
    ({"prompt": "1+1?", "answer": "2"}, "1+1?", "2"),
    ({"question": "1+1?", "answer": 2}, "1+1?", "2"),
    ({"problem": "1+1?", "solution": r"So \boxed{\frac{4}{2}}."}, "1+1?", r"\frac{4}{2}"),
    ({"problem": "1+1?", "solution": "long", "answer": "2"}, "1+1?", "2"),
    ({"prompt": [{"role": "user", "content": "1+1?"}], "ground_truth": "2"}, "1+1?", "2"),
    (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"index": 3, "answer": "It is 2 #### 2"},
        },
        "1+1?",
        "2",
    ),
    ({"prompt": "1+1?", "reward_spec": {"method": "rule", "ground_truth": 2}}, "1+1?", "2"),
    ({"prompt": "1+1?", "reward_spec": {"target": 2}}, "1+1?", '{"target": 2}'),
    ({"prompt": "1+1?", "ground_truth": ["2", "two"]}, "1+1?", '["2", "two"]'),
]


@pytest.mark.parametrize(("row", "question", "reference"), ROWS)
def test_recognised_rows(tmp_path, row, question, reference):
    task = one(tmp_path, row)
    assert (task.question, task.reference) == (question, reference)


SOLUTION = (
    "Half of it is $\\boxed{7}$, as one might think.\nBut no: we get $x^2 = 4$, so the answer is "
    "$\\boxed{\\left\\{-2, \\frac{4}{2}\\right\\}}$."
)


def test_math_rows(tmp_path):
    """As in the MATH data set, and as in the 500 of it that are usually tested on."""
    row = {"problem": "Solve.", "level": "Level 5", "type": "Algebra", "solution": SOLUTION}
    task = one(tmp_path, row)
    assert task.reference == r"\left\{-2, \frac{4}{2}\right\}"
    assert task.difficulty == 5.0 and task.metadata["subject"] == "Algebra"
    assert task.metadata["solution"] == SOLUTION and task.metadata["level"] == "Level 5"
    given = {"answer": "2", "subject": "Algebra", "level": 3, "unique_id": "test/algebra/7.json"}
    task = one(tmp_path, {"problem": "Solve.", "solution": SOLUTION} | given)
    assert (task.reference, task.difficulty, task.metadata["subject"]) == ("2", 3.0, "Algebra")
    assert one(tmp_path, row | {"level": "Level ?"}).difficulty is None
    assert one(tmp_path, row | {"difficulty": 0.5}).difficulty == 0.5
    assert one(tmp_path, {"problem": "1+1?", "solution": " 2 "}).reference == "2"


def test_countdown_rows(tmp_path):
    """As in the sets of 3 and 4 numbers that are usually trained on: no question, no answer."""
    task = one(tmp_path, {"target": 98, "nums": [44, 19, 35]})
    assert task.question.startswith("Use each of the numbers 44, 19 and 35 exactly once to make 98")
    env = MathCode(tasks=[task])
    for answer, reward in (("44 + 19 + 35", 1.0), ("44 + 54", 0.0)):
        env.reset(options={"task": task})
        assert env.step(f"\\boxed{{{answer}}}")[1] == reward


def test_a_long_solution_without_a_box_is_no_reference(tmp_path):
    for solution in ("First this.\nThen that.", "x" * 400):
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: no .*boxed.*answer_key"):
            one(tmp_path, {"problem": "Why?", "solution": solution})


def test_other_fields_are_kept_in_metadata(tmp_path):
    row = {"id": "q7", "question": "1+1?", "answer": "2", "difficulty": 3, "topic": ["sums"]}
    task = one(tmp_path, row)
    assert (task.id, task.difficulty, dict(task.metadata)) == ("q7", 3.0, {"topic": ["sums"]})


def test_keys_can_be_named(tmp_path):
    row = {"body": {"text": "1+1?"}, "gold": "2", "answer": "wrong field"}
    task = one(tmp_path, row, prompt_key="body.text", answer_key="gold")
    assert (task.question, task.reference) == ("1+1?", "2")
    assert one(tmp_path, {"prompt": "Write a poem."}, answer_key="").reference == ""


BAD = [
    ('{"question": "1+1?"}', r"rows\.jsonl:2: no answer: expected one of .*'answer'.*answer_key"),
    ('{"answer": "2"}', r"rows\.jsonl:2: no prompt: expected one of 'prompt'.*prompt_key"),
    ('{"prompt": "  ", "answer": "2"}', r"rows\.jsonl:2: .*empty prompt"),
    ('{"prompt": "1+1?", "answer": ""}', r"rows\.jsonl:2: .*empty answer"),
    ('{"prompt": 3, "answer": "2"}', r"rows\.jsonl:2: .*string or a list of messages"),
    ('{"prompt": [{"role": "me", "content": "?"}], "answer": "2"}', r"rows\.jsonl:2: .*role"),
    (
        '{"prompt": [{"role": "assistant", "content": "2"}], "answer": "2"}',
        r"rows\.jsonl:2: .*end with the assistant's reply",
    ),
    ('{"nums": [3], "target": 3}', r"rows\.jsonl:2: a Countdown row has two or more"),
    ('{"nums": [3, "4"], "target": 7}', r"rows\.jsonl:2: a Countdown row .*got \[3, '4'\] and 7"),
    ("[1, 2]", r"rows\.jsonl:2: expected a JSON object, got list"),
    ('{"question": "1+', r"rows\.jsonl:2: expected one JSON object a line"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_rows_are_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "ok?", "answer": "1"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_tasks(str(path))


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such task file"):
        load_tasks(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="unknown task source"):
        load_tasks("rows.csv")
    with pytest.raises(ValueError, match="has no 'heldout' source"):
        load_tasks({"train": str(GSM8K_STYLE)}, split="heldout")


def many(n, start=0):
    return [{"question": f"What is {i} doubled?", "answer": 2 * i} for i in range(start, start + n)]


def test_one_file_is_divided_by_hash(tmp_path):
    path = write(tmp_path / "rows.jsonl", many(500))
    train, heldout = load_tasks(path), load_tasks(path, split="heldout")
    assert len(train) + len(heldout) == 500
    assert 25 <= len(heldout) <= 80
    check_disjoint(train, heldout, None)
    reverse = write(tmp_path / "reversed.jsonl", many(500)[::-1])
    again = {t.question for t in load_tasks(reverse, split="heldout")}
    assert again == {t.question for t in heldout}
    assert len(load_tasks(path, holdout=0)) == 500
    with pytest.raises(ValueError, match=r"'heldout' split of .* is empty"):
        load_tasks(path, split="heldout", holdout=0)


def test_size_and_shuffle(tmp_path):
    path = write(tmp_path / "rows.jsonl", many(100))
    first = load_tasks(path, size=10, holdout=0)
    assert [t.reference for t in first] == [str(2 * i) for i in range(10)]
    mixed = load_tasks(path, holdout=0, shuffle=True, seed=1)
    assert [t.id for t in mixed] != [t.id for t in load_tasks(path, holdout=0)]
    assert sorted(int(t.reference) for t in mixed) == [2 * i for i in range(100)]
    assert mixed[0] == load_tasks(path, holdout=0, shuffle=True, seed=1, size=1)[0]
    with pytest.raises(ValueError, match=r"asked for 101 tasks, .* has 100"):
        load_tasks(path, size=101, holdout=0)


def test_files_by_split_must_not_overlap(tmp_path):
    train = write(tmp_path / "train.jsonl", many(20))
    heldout = write(tmp_path / "test.jsonl", many(10, start=18))
    source = {"train": train, "test": heldout}
    with pytest.raises(ValueError, match=r"2 of 20 train prompts .* are in both splits"):
        load_tasks(source)
    with pytest.warns(UserWarning, match="left out of training"):
        kept = load_tasks(f"train={train},test={heldout}", overlap="drop")
    assert len(kept) == 18
    check_disjoint(kept, load_tasks(source, split="heldout", overlap="drop"), None)
    assert len(load_tasks(source, split="heldout", overlap="drop")) == 10


def test_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(GSM8K_STYLE.read_text(encoding="utf-8"))
    assert load_tasks(f"train={path}")[1].reference == "1200"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [row for row, _, _ in ROWS if "reward_model" in row]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = load_tasks(f"train={path}")[0]
    assert (task.question, task.reference) == ("1+1?", "2")
    assert task.metadata["extra_info"]["index"] == 3
    parquet.write_table(pyarrow.Table.from_pylist([{"question": "1+1?"}]), path)
    with pytest.raises(ValueError, match=r"rows\.parquet:1: no answer"):
        load_tasks(str(path))


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    for package in ("pyarrow.parquet", "datasets", "reasoning_gym"):
        monkeypatch.setitem(sys.modules, package, None)  # what Python does when it is absent
    for source, extra in ((str(path), "data"), ("hub:a/b", "data"), ("rg:chain_sum", "tasks")):
        with pytest.raises(ImportError, match=rf"pip install 'palestra\[{extra}\]'"):
            load_tasks(source)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
def test_hub_offline(tmp_path, monkeypatch):
    """`datasets` reads a local folder as it reads a repository."""
    import datasets

    folder = tmp_path / "repository"
    folder.mkdir()
    write(folder / "train.jsonl", many(30))
    write(folder / "test.jsonl", many(10, start=100))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    train, heldout = (load_tasks(f"hub:{folder}", split=s) for s in ("train", "heldout"))
    assert (len(train), len(heldout), heldout[0].reference) == (30, 10, "200")
    with pytest.raises(ValueError, match="has no split 'dev'"):
        load_tasks(f"hub:{folder}", heldout_split="dev")
    with pytest.raises(ConnectionError, match=r"cannot load 'hub:.*load its .jsonl"):
        load_tasks(f"hub:{tmp_path}/nothing")
