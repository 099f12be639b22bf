"""What happens when things die, race or stall. STANDPIPE_ROUNDS sizes it; STANDPIPE_SEED repeats a printed seed."""
