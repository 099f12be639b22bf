"""Two releases on one database, as during a rollout."""
