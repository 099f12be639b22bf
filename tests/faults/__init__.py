"""What happens when things die, race or stall. Sized by STANDPIPE_ROUNDS; the seed is printed, STANDPIPE_SEED sets it."""
