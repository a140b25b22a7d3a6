"""The documentation site: ``pip install '.[docs]' && sphinx-build docs site``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mad_lightning

project = "mad_lightning"
version = release = mad_lightning.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "mad_lightning"
exclude_patterns = ["generated/mad_lightning.*.configs*"]
myst_heading_anchors = 3
suppress_warnings = [
    "toc.not_included",
    "ref.python",  # two rooms may have a word in common
    "docutils",  # a star before a name is no emphasis
    "myst.xref_missing",
    "myst.header",
]  # README's words, in a page of another level
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "ignore-module-all": True,  # a name is explained where it is made, not where it is handed on
}
napoleon_use_ivar = True
autosummary_generate = True
