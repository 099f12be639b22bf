"""What happens when things die, race or stall. TEST_ROUNDS sizes it; TEST_SEED repeats a printed seed."""
