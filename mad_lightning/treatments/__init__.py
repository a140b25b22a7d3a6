"""Treatments: what may happen to samples between drawing and training; one file a method.

base.py       the contract, and a treatment that is one function of your own
scores.py     what makes one sample better than another
chance.py     at random: the control of every selection
choice.py     the top share by a score, or the best of K, as people choose
verifier.py   a verifier with a bias, and a detector with given error rates
diversity.py  samples that are far from each other: k-centre, and threshold decay
correction.py towards the centres of clusters of real samples
in_turn.py    several, one after the other
watermark.py  a mark in each sample, and what throws marked samples away

A generator draws ``candidates`` times as many samples as are needed (``003``); a treatment keeps,
weighs, corrects or marks them, and later generations eat what it leaves (``003.kept``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
