"""The laptop: stand-ins for the cloud and the scripts that start them. The product never imports this."""

import sys
from pathlib import Path

# The stand-ins speak the package's own clients; Airflow puts plugins/ on the path itself, `python -m local.…` does not.
_PLUGINS = str(Path(__file__).resolve().parent.parent / "plugins")
if _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
