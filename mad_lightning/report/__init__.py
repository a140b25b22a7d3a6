"""The report: what several lineages say together.

    mad report runs/a runs/b --html report.html --json report.json

One lineage is one throw of the dice. Lineages whose configurations differ in nothing but the seed
are a *group*; it says a mean ± the sample standard deviation over its seeds, and stands beside the
*floor*: what real samples score against other real samples. Two values share an axis only if they
were measured alike; lineages of different protocols (n, k, extractor, weights, data) are refused.
What the seeds of a group allow to conclude is said by :mod:`mad_lightning.verdict`.

    groups.py       lineages that differ only in the seed
    judged.py       the verdicts on groups, and the safe share
    words.py        what a report says in sentences
    tables.py       and in numbers: Markdown, JSON
    terminal.py     both of them in 80 columns
    provenance.py   what lineages drew, ate and cost
    plan.py         all that a report shows, as plain data
    figures.py      metrics against the generation, fidelity against diversity
    page.py         all of it on one page
    live.py         that page beside every lineage that grows
    wandb.py        and as a report in W&B, which asks the lineages' runs
    wandb_sent.py   what W&B's own library makes of that

All of it is read from the ledgers, also while lineages still grow, and written as plain text:
Markdown, SVG and HTML that need no network, no script and no plotting library. What a metric means,
and so how it is worded, drawn and judged, the ledgers say too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
