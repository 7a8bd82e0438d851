"""Scaling by forecast: the MLScaler resource, the forecast, the policy and the pass that applies them."""
