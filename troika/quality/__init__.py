"""Judging generated images against held-out real ones."""
