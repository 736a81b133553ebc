"""Jobs as processes of this machine: a queue with slots that outlives its launcher. Imports ``jobs`` and below."""
