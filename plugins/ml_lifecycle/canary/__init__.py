"""Pure: whether a canary is as good as the stable side, and when a rollout takes its next step."""
