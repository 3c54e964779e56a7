"""HTTP servers that tests read from: a scripted one in this process, and real ones."""
