r"""The laboratory: the paper's theory, in formulas and in thousands of lineages at once.

A Gaussian fitted to its own samples is the one generator whose madness can be written down. It
answers in seconds what costs a GPU-year with images:

- :mod:`.closed_forms`: what is known exactly: how the mean walks and the variance dies, where the
  fresh loop settles, what accumulating saves.
- :mod:`.lineages`: the same loops simulated, for any of the project's loop policies; exact, without
  drawing a sample.
- :mod:`.sample_size`: how many real samples a fresh loop is worth, and the threshold past which
  synthetic data hurts.
- :mod:`.families`: what else can be written down: words and texts (:mod:`.discrete`), normal laws
  with a prior or a watermark and kernel densities (:mod:`.densities`), averages and least squares
  (:mod:`.exponential`), under any loop policy; :mod:`.recursion` says what to expect of all of
  them, exactly, and :mod:`.marks` what becomes of watermarks.
- :mod:`.study`: many fresh loops at once, as a table; :mod:`.laboratory`: families beside each
  other, and whose variance collapses; :mod:`.figures` draws them.

    >>> from mad_lightning.theory import effective_sample_size
    >>> e = effective_sample_size(n_real=1000, n_synthetic=10_000, sampling_bias=0.85, dim=100)
    >>> f"{e.ratio:.1f} real samples for each that was given: admissible: {e.admissible}"
    '0.2 real samples for each that was given: admissible: False'

The studies of the paper (E9, E11 to E14) are files in ``configs/studies``:

    mad study --config configs/studies/e11.yaml
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
