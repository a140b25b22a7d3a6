"""What is known of a lineage: its ledger, its files, its configuration, what its numbers mean.

    settings.py       where a lineage lives and how long it is
    ledger.py         what happened, one line a finished generation: the truth
    places.py         where everything lies: the only room that knows file names
    directory.py      what is kept there, and how it comes and goes
    configuration.py  which changes of a configuration a lineage may go on under
    quantities.py     what a measured name means, and which way is worse

Nothing in this room needs torch: a ledger can be read where nothing is trained.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
