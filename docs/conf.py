"""The site: `sphinx-build -W -c docs . runs/site`, without a network. Its root is the repository: pages link to anything in it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "skillmeta"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "docs/**",
    "results/**",
]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"
html_show_copyright = False
html_title = "skillmeta"
autodoc_typehints = "none"  # signatures have them; classes of a seam are named there as in the code
autodoc_member_order = "bysource"
html_theme_options = {"sidebar_hide_name": False}
