"""Trackers: finished records, shown elsewhere. What they do changes no cell and no key."""
