"""The laptop: stand-ins for the cloud and the scripts that start them. The product never imports this."""
