"""The corpora are in the form that their environments give to episodes."""

import asyncio
import re

import numpy as np
import pytest

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rendering import Renderer
from palestra.agents.rollout import rollout
from palestra.envs.chat.prompts import shipped_prompts
from palestra.envs.python_exec.generator import ProgramTasks
from palestra.envs.rubric.tasks import shipped_tasks
from palestra.trainers.micro import build_tokenizer
from palestra.trainers.micro.corpora import CORPORA, chat, kuhn, programs, rubric
from palestra.trainers.micro.pretrain import encode_document


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", CORPORA)
def test_documents_are_a_function_of_the_generator_and_fit(name):
    tokenizer = build_tokenizer()
    documents = CORPORA[name](60, rng(), 0.7)
    assert documents == CORPORA[name](60, rng(), 0.7) != CORPORA[name](60, rng(1), 0.7)
    assert len(documents) == 60
    for document in documents:
        ids, weights = encode_document(tokenizer, document)
        assert len(ids) == len(weights) <= 480
        assert sum(weights) > 0


def test_poker_is_what_the_renderer_would_show():
    env = palestra.make("palestra/KuhnPoker-v0", rules=False).unwrapped
    tokenizer = build_tokenizer()
    renderer = Renderer(tokenizer)
    for card, history in kuhn.INFO_SETS:
        messages, replies = env.question(card, history)
        ids, weights = encode_document(tokenizer, kuhn.document(card, history, rng()))
        context = renderer.conversation(messages)
        assert ids[: len(context)] == context
        assert ids[len(context) :] in [renderer.turn(reply) for reply in replies]
        assert not any(weights[: len(context)])


def graded(env, task, reply):
    return asyncio.run(rollout(env, Agent(ScriptedEngine([reply])), task))


def test_programs_are_often_wrong_and_graded_as_the_corpus_says():
    options = {"level": 1, "argument": "int"}
    env = palestra.make(
        "palestra/PythonExec-v0", task_options=options, instructions="", max_tool_calls=0
    ).unwrapped
    train = ProgramTasks(split="train", **options)
    by_question = {train.task(i).question: train.task(i) for i in range(programs.TASKS)}
    right = []
    for document in programs.draw(160, rng(3), 0.0)[:: programs.TASK_EVERY]:
        trajectory = graded(env, by_question[document.prompt], document.response)
        right.append(trajectory.correct)
    assert 0.3 < sum(right) / len(right) < 0.7
    env.close()


def test_practice_gives_the_right_expression():
    for document in programs.draw(40, rng(), 0.0):
        if not document.long:
            step, k = programs._phrases()[document.prompt.removesuffix(".")]
            assert document.response == programs.expression(step, k)


def test_texts_have_the_form_of_the_tasks_and_seldom_meet_their_rubric():
    """The same words around what differs; a careful text meets what its request asks for."""
    forms = {form(task.question) for task in shipped_tasks("train")}
    texts = [rubric.text(rng(seed)) for seed in range(60)]
    assert {form(d.prompt) for d in texts} <= forms
    held = {task.question for task in shipped_tasks("heldout")}
    assert not held & {d.prompt for d in texts}
    counts = [
        int(re.search(r"(\d) sentences", d.prompt)[1]) == len(re.findall(r"[.?!]", d.response))
        for d in texts
    ]
    assert 0.2 < np.mean(counts) < 0.7


def form(prompt):
    prompt = re.sub(r"about [\w ]+?(,| in exactly)", r"about T\1", prompt)
    return re.sub(r'"\w+"|\d+', "X", prompt)


def test_chat_questions_come_from_the_train_split():
    held = {task.question for task in shipped_prompts("heldout")}
    documents = chat.draw(300, rng(), 0.0)
    assert not held & {d.prompt for d in documents}
    advice = [any(piece in d.response for piece in chat.ADVICE) for d in documents]
    assert 0.2 < np.mean(advice) < 0.6
