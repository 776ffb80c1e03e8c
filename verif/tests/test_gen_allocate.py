# SPDX-License-Identifier: Apache-2.0
"""Places of tensors: nothing that is still needed is ever overwritten."""

import random
from dataclasses import replace

import pytest

from hiddenfold.gen.allocate import Step, allocate, coalesce
from hiddenfold.gen.graph import build
from hiddenfold.gen.schedule import schedule
from hiddenfold.gen.target import Target
from hiddenfold.sw.operations import Loop
from hiddenfold.verif.golden.random_networks import Limits, random_model

LANES = 16
TARGET = replace(Target.load("sim-tiny"), act_banks=4, act_bank_words=1 << 14)


def executed(model):
    """All operations in execution order."""
    for op in model.ops:
        for _ in range(op.count if isinstance(op, Loop) else 1):
            yield from op.body if isinstance(op, Loop) else (op,)


def check(model, nodes, address, words):
    """Run a memory of tokens: every operation must find what it reads as it was written.

    `nodes` are (dst, src, res) in execution order, copies included as (dst, src, None, True).
    """
    memory = {}
    newest = {}

    def read(variable, expected):
        start = address[variable]
        cells = {memory.get(start + i) for i in range(words[variable])}
        assert cells == {expected}

    def write(variable, token):
        for i in range(words[variable]):
            memory[address[variable] + i] = token

    operations = executed(model)
    for number, (dst, src, res, copy) in enumerate(nodes):
        if copy:
            token = memory[address[src]]
            read(src, token)
            write(dst, token)
            continue
        op = next(operations)
        if src is not None:
            read(src, newest[op.input])
        if res is not None:
            read(res, newest[op.residual])
        if dst is not None:
            if src is not None:
                assert not overlap(address, words, dst, src)
            if res is not None and address[res] != address[dst]:
                assert not overlap(address, words, dst, res)
            newest[op.output] = number
            write(dst, number)
    assert next(operations, None) is None


def overlap(address, words, a, b):
    return address[a] < address[b] + words[b] and address[b] < address[a] + words[a]


def unrolled(graph):
    """Nodes in execution order, as `check` wants them."""
    nodes = []
    start = count = 0
    for node in graph.nodes:
        if node.loop_start:
            start, count = len(nodes), node.loop_count
        nodes.append((node.dst, node.src, node.res, node.copy))
        if node.loop_end:
            nodes += nodes[start:] * (count - 1)
    return nodes


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_keep_what_they_need(seed):
    model = random_model(seed, Limits.of(TARGET, max_macs=300_000))
    graph = build(model, LANES)
    found = schedule(graph, TARGET, 1)
    assert found is not None
    address = found.addresses
    used = {v for node in graph.nodes for v in (node.dst, node.src, node.res) if v is not None}
    assert set(address) == used
    assert max(address[v] + graph.words[v] for v in used) <= TARGET.act_words
    check(model, unrolled(graph), address, graph.words)


def chain(generator, length):
    """Steps on fresh variables that read any earlier ones; some are a loop."""
    steps = [Step(0)]
    for variable in range(1, length):
        src = generator.randrange(variable)
        res = generator.choice([None, generator.randrange(variable)])
        steps.append(Step(variable, src, res))
    start = generator.randrange(1, length)
    steps[generator.randrange(start, length)].back = start
    return steps


@pytest.mark.parametrize("seed", range(100))
def test_random_steps_keep_what_they_need(seed):
    generator = random.Random(seed)
    steps = chain(generator, 12)
    sizes = [generator.choice([1, 2, 3, 4, 8]) for _ in steps]
    # A result may only take the place of a residual of its size.
    for step in steps:
        if step.res is not None:
            sizes[step.dst] = sizes[step.res]
    original = [replace(step) for step in steps]
    coalesce(steps)
    words = dict(enumerate(sizes))
    address, _ = allocate(steps, words, 4, 16)
    assert address is not None
    back = [index for index, step in enumerate(steps) if step.back is not None][0]
    order = [*range(back + 1), *range(steps[back].back, len(steps))]
    memory = {}
    newest = {}
    for index in order:
        before, after = original[index], steps[index]
        for old, new in ((before.src, after.src), (before.res, after.res)):
            if old is not None:
                place = range(address[new], address[new] + words[old])
                assert {memory.get(i) for i in place} == {newest[old]}
        newest[before.dst] = object()
        place = range(address[after.dst], address[after.dst] + words[before.dst])
        memory |= dict.fromkeys(place, newest[before.dst])


def test_source_and_residual_lie_in_different_banks():
    # 1 is read while 0 is added.
    steps = [Step(0), Step(1, 0), Step(2, 1, 0), Step(None, 2)]
    coalesce(steps)
    address, _ = allocate(steps, {0: 10, 1: 10, 2: 10}, 4, 16)
    assert steps[2].dst == steps[2].res == 0
    assert address[0] // 16 != address[1] // 16


def test_a_residual_that_lives_on_is_not_overwritten():
    steps = [Step(0), Step(1, 0), Step(2, 1, 0), Step(3, 2, 0), Step(None, 3)]
    coalesce(steps)
    assert [step.dst for step in steps] == [0, 1, 2, 0, None]


def test_a_place_that_was_in_use_beside_the_residual_is_not_given_up():
    # 1 holds a value already while 0 waits to be added to its next one, as the state of a loop.
    steps = [Step(0), Step(1, 0), Step(2, 1), Step(1, 2, 0), Step(None, 1)]
    coalesce(steps)
    assert [step.dst for step in steps] == [0, 1, 2, 1, None]


def test_what_does_not_fit_is_measured():
    address, words = allocate([Step(0), Step(1, 0), Step(None, 1)], {0: 20, 1: 30}, 2, 16)
    assert address is None
    assert words == 50
