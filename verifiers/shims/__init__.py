"""What runs inside the sandbox: source files, standard library only, never imported by a trainer.

`verifiers.code_shims` puts `values.py` in front of `candidate.py` or `judge.py` and ships the
result as the program's one main file.
"""
