"""A trained regressor as one file that runs without `rap`: uint8 photographs in, poses out."""

from rap.export.artifact import Artifact, load_artifact, off_regressor
from rap.export.details import Details, ExportError
from rap.export.write import export

__all__ = ["Artifact", "Details", "ExportError", "export", "load_artifact", "off_regressor"]
