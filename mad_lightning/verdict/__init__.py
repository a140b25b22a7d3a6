r"""The verdict: has this loop gone MAD, and how sure is that?

A process is MAD if :math:`E[\mathrm{dist}(\mathcal G^t, P_r)]` grows with the generation t
(Alemohammad et al., 2023, section 2.1). That is an expectation over lineages, and a claim about
growth, which three things imitate:

- **Noise.** Generations of one lineage descend from each other; only *seeds* are independent. So
  every test here boils a lineage down to one number and compares the seeds' numbers with Student's
  t. Ten times as many generations are no reason to be ten times as sure, and one seed is none.
- **A loop that settles.** With real data coming in, what generation 1 left behind fades, and the
  distance climbs to where it will stay. That looks like growth, for as long as an error lives.
- **A loop with nothing left to lose** stops growing as well, far from home. Where no real data
  comes in nothing pulls back, and there any rise counts, however long ago.

What is not shown is not claimed: *settled* needs a bound on the growth, not the absence of proof,
and between the two lies "undecided". Everything here is arithmetic on numbers from ledgers.

    intervals.py  what seeds say together
    growth.py     is it MAD?
    departure.py  since when is it worse than real data is?
    single.py     what one lineage shows
    shares.py     how much fresh data is safe?
    criteria.py   what else is called collapse: a list of small functions
    judgement.py  all of it for one configuration
    lineages.py   the same, from the records of ledgers
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
