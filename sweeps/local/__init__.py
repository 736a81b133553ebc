"""Jobs as processes of this machine: a queue with slots that outlives whoever asked for the work."""
