"""The page from the daemon's side: its server, the runs it shows, and what it may have done."""
