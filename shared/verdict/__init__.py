"""What measurements amount to: intervals, verdicts, the choice and the canonical report. Pure: no clock, no files."""
