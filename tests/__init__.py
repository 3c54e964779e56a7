"""Everything that shows getm does what it says."""
