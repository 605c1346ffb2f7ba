"""What this bundle alone needs."""
