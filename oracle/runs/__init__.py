"""What a run's folder holds: tables, networks, settings, decisions, the record of events."""
