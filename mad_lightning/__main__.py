"""``python -m mad_lightning VERB``: the same door as ``mad VERB``."""

from mad_lightning.commands import main

if __name__ == "__main__":
    main()
