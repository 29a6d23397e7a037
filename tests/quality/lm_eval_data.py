"""Task files of our own for lm-eval, their data, and what transformers alone says of them."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import zoo
from workbench.quality.lm_eval import Task
from workbench.settings import Settings

needs = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None,
                           reason="pip install 'inference-workbench[lm-eval]'")
SETTINGS = Settings().with_({"model.source": "wb-1m", "weights": "fp32", "compute.threads": 1})
CHOICE = """
task: wb_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.5}}
"""
TEXT = """
task: wb_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{said}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
ROLLING = """
task: wb_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{document}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: bits_per_byte}}
metadata: {{version: 3.0}}
"""
CLOZE = """
task: wb_cloze
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
GROUP = """
group: wb_group
task: [wb_choice, wb_text]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1.0}
"""
LOST = """
task: wb_lost
dataset_path: nobody/there_is_no_such_data_set
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
"""


def write_tasks(folder: Path, judge: Any) -> Path:
    """Task files and their data: 12 questions with three choices, a few of them long."""
    texts = [d.text.replace("\n", " ") for d in zoo.evaluation_text()]
    chooser = random.Random(5)
    docs = []
    for i in range(12):
        text = texts[i % len(texts)]
        at = 40 + 300 * (i % 3) + i
        right = text[at:at + 12]
        choices = [c.strip() for c in (right, texts[(i + 1) % len(texts)][at:at + 9], "zzz qq")]
        answer = chooser.randrange(3)
        choices[0], choices[answer] = choices[answer], choices[0]
        docs.append({"question": text[:at].strip(), "choices": choices, "answer": answer,
                     "said": said(judge, text[:at].strip()) if i % 2 else "never said"})
    write(folder / "choice.jsonl", docs)
    write(folder / "rolling.jsonl", [{"document": d.text[:700]} for d in zoo.evaluation_text()[:3]])
    for name, text in (("choice", CHOICE), ("text", TEXT), ("cloze", CLOZE), ("rolling", ROLLING)):
        data = folder / ("rolling.jsonl" if name == "rolling" else "choice.jsonl")
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    (folder / "group.yaml").write_text(GROUP)
    (folder / "lost.yaml").write_text(LOST)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def said(judge: Any, question: str) -> str:
    """The first line of 24 greedy tokens, by transformers alone."""
    network, tokenizer = judge
    ids = tokenizer(question)["input_ids"]
    whole = list(ids)
    with torch.inference_mode():
        for _ in range(24):
            whole.append(int(network(torch.tensor([whole]), use_cache=False).logits[0, -1].argmax()))
            if whole[-1] == tokenizer.eos_token_id:
                whole.pop()
                break
    return str(tokenizer.decode(whole[len(ids):])).split("\n")[0]


def likelihood(judge: Any, context: str, continuation: str) -> float:
    network, tokenizer = judge
    before = tokenizer(context)["input_ids"] if context else [tokenizer.bos_token_id]
    after = tokenizer(context + continuation)["input_ids"][len(before) if context else 0:]
    whole = before + after  # lm-eval's rule where a token would span the border
    with torch.inference_mode():
        logits = network(torch.tensor([whole[:-1]]), use_cache=False).logits[0].log_softmax(-1)
    return float(sum(logits[i - 1, whole[i]] for i in range(len(before), len(whole))))


def measure(task: Task, model: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    events: list[Any] = []
    scores = task.measure(model, options.pop("settings", model.settings), events.append,
                          options.pop("cancelled", lambda: False), **options)
    return scores, events
