"""What takes a file takes getm's: the packages that users read with, in an environment of their own."""
