"""The verifier workbench: what `rlvr check` does to a verifier before anyone trains on it.

load.py         a data set, its columns recognised, every problem with its line
sameness.py     whether two answers may be the same (independent of the verifier under test)
mutants.py      golds made wrong
probes.py       completions and what must become of them, for problems with an answer
code_probes.py  the same for problems with tests
audit.py        judges the probes and draws the conclusions (findings.py)
labels.py       precision and recall on labelled completions
report.py       the terminal, html.py the self-contained page
live.py         the same probes on completions of a running training
"""
