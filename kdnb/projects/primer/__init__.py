"""00 The primer: one small set, one teacher, one student, and everything the other projects build on."""

from kdnb.projects.primer.data import PrimerSettings, open_data
from kdnb.projects.primer.experiment import Primer
from kdnb.projects.primer.terms import build_terms

__all__ = ["Primer", "PrimerSettings", "build_terms", "open_data"]
