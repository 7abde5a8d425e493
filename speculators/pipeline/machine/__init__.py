"""What a machine has and lacks, a module a subject: a look at the machine, and a judgement of facts.

The looks are thin and the judgements pure, so that a fault no test can provoke is fed in as facts.
``pipeline/doctor.py`` asks all of them, ``pipeline/preflight.py`` those that a run needs at once.
"""
