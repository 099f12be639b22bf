"""Tests, in strata: what each stratum may touch is said in its own package."""
