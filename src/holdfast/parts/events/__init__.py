"""Events: who did something with what, and when."""
