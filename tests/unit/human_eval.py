"""Two problems in HumanEval's format."""

HUMAN_EVAL = [
    {
        "task_id": "T/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return x * 2\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    },
    {
        "task_id": "T/1",
        "prompt": 'def largest(xs):\n    """Largest of xs."""\n',
        "entry_point": "largest",
        "canonical_solution": "    best = xs[0]\n    for x in xs:\n        if x > best:\n"
        "            best = x\n    return best\n",
        "test": "def check(candidate):\n    assert candidate([1, 3, 2]) == 3\n",
    },
]
